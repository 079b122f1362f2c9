//! The programs of containers that share a sandbox: each engine, and each program's code, is there once.

use super::kind::Description;
use super::service::Ticker;
use super::state::ComponentState;
use super::{Kind, Mapped, Program, engine, linker, purpose, read_whole};
use crate::grants::{Http, Limits};
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Semaphore;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Module};

/// Engines and programs, as long as somebody runs them.
#[derive(Debug, Default)]
pub struct Programs {
    engines: HashMap<engine::Purpose, Arc<Shop>>,
    /// By the digest of their Wasm; and whether somebody runs them.
    known: HashMap<String, (Program, Weak<()>)>,
}

/// One engine that several programs run with.
struct Shop {
    engine: Engine,
    ticker: Mutex<Option<Arc<Ticker>>>,
    /// Places in the pool of its instances.
    pool: Arc<Semaphore>,
}

impl std::fmt::Debug for Shop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shop").finish_non_exhaustive()
    }
}

/// A program that is linked, by the files that it may have open.
type Linked = Mutex<HashMap<(Option<u64>, bool), InstancePre<ComponentState>>>;

/// What a program has in common with others.
#[derive(Clone)]
pub(super) struct Common {
    shop: Arc<Shop>,
    linked: Arc<Linked>,
    /// That somebody runs it.
    _used: Option<Arc<()>>,
}

impl Programs {
    /// The program with this digest, whose code is in `file`.
    ///
    /// # Errors
    /// When the code was made by another engine or for another machine.
    pub fn get(&mut self, digest: &str, file: File, description: Description) -> wasmtime::Result<Program> {
        self.known.retain(|_, (_, used)| used.strong_count() > 0);
        if let Some((program, used)) = self.known.get(digest)
            && let Some(used) = used.upgrade()
        {
            return Ok(program.clone().used(used));
        }
        let shop = self.shop(&description)?;
        let engine = shop.engine.clone();
        let code = if description.kind == Kind::Module {
            // SAFETY: the file comes from the code cache, which takes only what our own compiler made, and checks it.
            Mapped::Module(unsafe { Module::deserialize_open_file(&engine, file)? })
        } else {
            // The engine has no such function for components.
            // SAFETY: as above.
            Mapped::Component(unsafe { Component::deserialize(&engine, read_whole(&file)?)? })
        };
        let common = Some(Common { shop, linked: Arc::default(), _used: None });
        let program = Program { engine, code, description, common };
        let used = Arc::new(());
        self.known.insert(digest.to_owned(), (program.clone(), Arc::downgrade(&used)));
        Ok(program.used(used))
    }

    fn shop(&mut self, description: &Description) -> wasmtime::Result<Arc<Shop>> {
        let purpose = purpose(description, Http::MOST_INSTANCES);
        if let Some(shop) = self.engines.get(&purpose) {
            return Ok(Arc::clone(shop));
        }
        let pool = Arc::new(Semaphore::new(Http::MOST_INSTANCES as usize));
        let shop = Arc::new(Shop { engine: engine::engine(purpose)?, ticker: Mutex::default(), pool });
        self.engines.insert(purpose, Arc::clone(&shop));
        Ok(shop)
    }
}

impl Program {
    fn used(mut self, used: Arc<()>) -> Self {
        if let Some(common) = &mut self.common {
            common._used = Some(used);
        }
        self
    }

    /// What moves its engine's epoch on.
    pub(super) fn ticker(&self) -> std::io::Result<Arc<Ticker>> {
        let start = || Ticker::start(self.engine.clone()).map(Arc::new);
        let Some(common) = &self.common else { return start() };
        let mut ticker = common.shop.ticker.lock().unwrap_or_else(PoisonError::into_inner);
        match &*ticker {
            Some(ticker) => Ok(Arc::clone(ticker)),
            None => Ok(Arc::clone(ticker.insert(start()?))),
        }
    }

    /// Places in a pool of instances that is not its own.
    pub(super) fn pool(&self) -> Option<Arc<Semaphore>> {
        self.common.as_ref().map(|common| Arc::clone(&common.shop.pool))
    }

    /// A service, ready to be instantiated.
    pub(super) fn linked(&self, limits: &Limits) -> wasmtime::Result<InstancePre<ComponentState>> {
        let link = || {
            let Mapped::Component(component) = &self.code else { wasmtime::bail!("a service is a component") };
            linker::component(&self.engine, &self.description, limits)?.instantiate_pre(component)
        };
        let Some(common) = &self.common else { return link() };
        let mut all = common.linked.lock().unwrap_or_else(PoisonError::into_inner);
        // What the linker looks at.
        let key = (limits.open_files, limits.storage.is_some());
        match all.get(&key) {
            Some(linked) => Ok(linked.clone()),
            None => {
                let linked = link()?;
                all.insert(key, linked.clone());
                Ok(linked)
            }
        }
    }
}
