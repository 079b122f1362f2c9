#!/usr/bin/env bash
# Builds the tools of Kubernetes that the tests drive, each once by its version, outside the clone; prints their directory.
# They come as Go modules. Without Go nothing is built, and the tests that need them are skipped.
set -euo pipefail
cache=$(realpath -m "${SAMPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan}")
readonly kubernetes=v1.36.0
readonly dir=$cache/tools/kubernetes-$kubernetes

# Builds a package of a module, in a module of our own that wants this version of it: its program, or its tests (`-c`).
build() {
    local name=$1 module=$2 package=$3 how=${4:-build} work
    [[ ! -x $dir/$name ]] || return 0
    if ! command -v go >/dev/null; then
        echo "SKIPPED $name: it needs Go" >&2
        return 0
    fi
    echo "building $name $kubernetes" >&2
    work=$(mktemp -d)
    printf 'module tools\n\ngo 1.24\n\nrequire %s %s\n' "$module" "$kubernetes" >"$work/go.mod"
    # shellcheck disable=SC2086 # a command and its flag
    (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 \
        go $how -trimpath -ldflags='-s -w' -o "$work/$name" "$package") >&2
    mkdir -p "$dir"
    # Another clone may do the same at this moment.
    mv "$work/$name" "$dir/$name"
    rm -rf "$work"
}

# Builds a program of Kubernetes itself. Its module is made of others that lie beside it in its repository: here they are what
# was published of them.
build_kubernetes() {
    local name=$1 work mod
    [[ ! -x $dir/$name ]] || return 0
    if ! command -v go >/dev/null; then
        echo "SKIPPED $name: it needs Go" >&2
        return 0
    fi
    echo "building $name $kubernetes (some minutes)" >&2
    work=$(mktemp -d)
    mod=$(cd "$work" && go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
    sed -E "s#^module .*#module tools#; s#=> \./staging/src/(k8s.io/[a-z-]+)#=> \1 v0${kubernetes#v1}#" "$mod" >"$work/go.mod"
    printf '\nrequire k8s.io/kubernetes %s\n' "$kubernetes" >>"$work/go.mod"
    local version=k8s.io/component-base/version
    local flags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
    (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 \
        go build -trimpath -ldflags="$flags" -o "$work/$name" "k8s.io/kubernetes/cmd/$name") >&2
    mkdir -p "$dir"
    mv "$work/$name" "$dir/$name"
    rm -rf "$work"
}

build crictl sigs.k8s.io/cri-tools sigs.k8s.io/cri-tools/cmd/crictl
build critest sigs.k8s.io/cri-tools sigs.k8s.io/cri-tools/cmd/critest 'test -c'
build_kubernetes kubelet
# `tests/tools.sh cluster`: what a whole cluster is made of, besides etcd.
if [[ ${1:-} == cluster ]]; then
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl; do
        build_kubernetes "$name"
    done
fi
echo "$dir"
