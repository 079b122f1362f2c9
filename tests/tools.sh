#!/usr/bin/env bash
# Builds what the tests drive that Debian does not have, each once by its version, outside the clone; prints the directories, as
# a search path has them. They come as Go modules. Without Go nothing is built, and the tests that need them are skipped.
#
#     tests/tools.sh            crictl, critest and kubelet; containerd of version 2
#     tests/tools.sh cluster    also what else a whole cluster is made of, besides etcd
set -euo pipefail
cache=$(realpath -m "${SAMPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan}")
readonly kubernetes=v1.36.0 containerd=v2.3.4 metrics_server=v0.9.0
readonly of_kubernetes=$cache/tools/kubernetes-$kubernetes of_containerd=$cache/tools/containerd-$containerd

# Whether there is no such program yet, and it can be built.
wanted() {
    local program=$1
    [[ ! -x $program ]] || return 1
    if ! command -v go >/dev/null; then
        echo "SKIPPED $(basename "$program"): it needs Go" >&2
        return 1
    fi
    echo "building $(basename "$program") (some minutes)" >&2
}

# Has Go make a program of a package, in a module of our own ($work) that wants what its go.mod says.
go_make() {
    local program=$1 package=$2 flags=${3:--s -w} how=${4:-build}
    # shellcheck disable=SC2086 # a command and its flag
    (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 go $how -trimpath -ldflags="$flags" -o made "$package") >&2
    mkdir -p "$(dirname "$program")"
    # Another clone may do the same at this moment.
    mv "$work/made" "$program"
    rm -rf "$work"
}

# A package of a module: its program, or its tests (`test -c`).
build() {
    local program=$1 module=$2 version=$3 package=$4 how=${5:-build} work
    wanted "$program" || return 0
    work=$(mktemp -d)
    printf 'module tools\n\ngo 1.24\n\nrequire %s %s\n' "$module" "$version" >"$work/go.mod"
    go_make "$program" "$package" "-s -w" "$how"
}

# A program of Kubernetes itself. Its module is made of others that lie beside it in its repository: here they are what was
# published of them.
build_kubernetes() {
    local name=$1 work mod version=k8s.io/component-base/version
    wanted "$of_kubernetes/$name" || return 0
    work=$(mktemp -d)
    mod=$(cd "$work" && go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    sed -E "s#^module .*#module tools#; s#=> \./staging/src/(k8s.io/[a-z-]+)#=> \1 v0${kubernetes#v1}#" "$mod" >"$work/go.mod"
    printf '\nrequire k8s.io/kubernetes %s\n' "$kubernetes" >>"$work/go.mod"
    go_make "$of_kubernetes/$name" "k8s.io/kubernetes/cmd/$name" "-s -w -X $version.gitVersion=$kubernetes \
        -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
}

tools=sigs.k8s.io/cri-tools
build "$of_kubernetes/crictl" $tools $kubernetes $tools/cmd/crictl
build "$of_kubernetes/critest" $tools $kubernetes $tools/cmd/critest 'test -c'
build_kubernetes kubelet
# Beside Debian's, which is of version 1.
module=github.com/containerd/containerd/v2
for name in containerd ctr; do
    build "$of_containerd/$name-2" $module $containerd $module/cmd/$name
done
if [[ ${1:-} == cluster ]]; then
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl; do
        build_kubernetes "$name"
    done
    module=sigs.k8s.io/metrics-server
    build "$of_kubernetes/metrics-server" $module $metrics_server $module/cmd/metrics-server
fi
echo "$of_kubernetes:$of_containerd"
