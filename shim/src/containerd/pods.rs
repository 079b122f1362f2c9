//! Containers that stand for a pod under containerd's CRI: their image is a native program that does nothing (`pause`), which
//! is not run. Such a container is the sandbox, and runs from its start until it is killed or the sandbox's host dies.

use crate::task::{refuse, time};
use containerd_shim_protos::api::{CreateTaskRequest, StateResponse, Status};
use sampan_runtime::guest::KILLED;
use sampan_runtime::sandbox::Exit;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use ttrpc::{Code, Result};

/// All of them; usually there is one. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Pods(Arc<Mutex<HashMap<String, Pod>>>);

#[derive(Debug)]
struct Pod {
    bundle: String,
    streams: [String; 3],
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone)]
enum Phase {
    Created,
    Running,
    Ended(Exit),
}

fn killed() -> Exit {
    Exit { code: KILLED, out_of_memory: false, at: jiff::Timestamp::now(), message: None }
}

impl Pods {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Pod>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is one of this name.
    pub fn has(&self, id: &str) -> bool {
        self.all().contains_key(id)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    pub fn add(&self, request: &CreateTaskRequest) -> Result<()> {
        if self.has(&request.id) {
            return Err(refuse(Code::ALREADY_EXISTS, format!("the pod {} is there already", request.id)));
        }
        let streams = [&request.stdin, &request.stdout, &request.stderr].map(Clone::clone);
        let pod = Pod { bundle: request.bundle.clone(), streams, phase: watch::Sender::new(Phase::Created) };
        self.all().insert(request.id.clone(), pod);
        Ok(())
    }

    fn phase(&self, id: &str) -> Result<watch::Receiver<Phase>> {
        let missing = || refuse(Code::NOT_FOUND, format!("no container {id} in this sandbox"));
        self.all().get(id).map(|pod| pod.phase.subscribe()).ok_or_else(missing)
    }

    pub fn start(&self, id: &str) -> Result<()> {
        let mut done = false;
        if let Some(pod) = self.all().get(id) {
            done = pod.phase.send_if_modified(|phase| {
                let created = matches!(phase, Phase::Created);
                if created {
                    *phase = Phase::Running;
                }
                created
            });
        }
        if done { Ok(()) } else { Err(refuse(Code::FAILED_PRECONDITION, format!("the pod {id} was started before"))) }
    }

    /// Ends one, or all where none is named; false if it had ended before.
    pub fn end(&self, id: Option<&str>) -> bool {
        let all = self.all();
        let meant = all.iter().filter(|(name, _)| id.is_none_or(|id| id == *name));
        meant.fold(false, |ended, (_, pod)| {
            let now = pod.phase.send_if_modified(|phase| {
                let lives = !matches!(phase, Phase::Ended(_));
                if lives {
                    *phase = Phase::Ended(killed());
                }
                lives
            });
            ended || now
        })
    }

    /// Waits until one has ended.
    pub async fn wait(&self, id: &str) -> Result<Exit> {
        let mut phase = self.phase(id)?;
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        Ok(match ended.as_deref() {
            Ok(Phase::Ended(exit)) => exit.clone(),
            _ => killed(),
        })
    }

    /// Forgets one that does not run.
    pub fn delete(&self, id: &str) -> Result<Option<Exit>> {
        let phase = self.phase(id)?.borrow().clone();
        let exit = match phase {
            Phase::Running => return Err(refuse(Code::FAILED_PRECONDITION, format!("the pod {id} is running"))),
            Phase::Created => None,
            Phase::Ended(exit) => Some(exit),
        };
        self.all().remove(id);
        Ok(exit)
    }

    pub fn state(&self, id: &str, pid: u32) -> Result<StateResponse> {
        let phase = self.phase(id)?.borrow().clone();
        let (status, exit) = match phase {
            Phase::Created => (Status::CREATED, None),
            Phase::Running => (Status::RUNNING, None),
            Phase::Ended(exit) => (Status::STOPPED, Some(exit)),
        };
        let all = self.all();
        let pod = all.get(id);
        let [stdin, stdout, stderr] = pod.map(|pod| pod.streams.clone()).unwrap_or_default();
        Ok(StateResponse {
            id: id.to_owned(),
            bundle: pod.map(|pod| pod.bundle.clone()).unwrap_or_default(),
            pid,
            status: status.into(),
            stdin,
            stdout,
            stderr,
            exit_status: exit.as_ref().map_or(0, |exit| exit.code.into()),
            exited_at: exit.map(|exit| time(exit.at)).into(),
            ..StateResponse::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_runs_until_it_is_killed() {
        let pods = Pods::default();
        let request = CreateTaskRequest { id: "pod".into(), bundle: "/b".into(), ..CreateTaskRequest::default() };
        pods.add(&request).unwrap();
        assert!(pods.add(&request).is_err());
        assert_eq!(pods.state("pod", 7).unwrap().status, Status::CREATED.into());
        pods.start("pod").unwrap();
        assert!(pods.start("pod").is_err() && pods.delete("pod").is_err());
        assert_eq!(pods.state("pod", 7).unwrap().status, Status::RUNNING.into());
        assert!(pods.end(Some("pod")) && !pods.end(None));
        let state = pods.state("pod", 7).unwrap();
        assert_eq!((state.status, state.exit_status), (Status::STOPPED.into(), 137));
        assert_eq!(pods.delete("pod").unwrap().unwrap().code, KILLED);
        assert!(!pods.has("pod") && pods.state("pod", 7).is_err());
    }
}
