#!/usr/bin/env bash
# Builds the tools of Kubernetes and the containerd that the tests drive, each once by its version, outside the clone; prints
# their directories, as a search path has them. They come as Go modules. Without Go nothing is built, and the tests that need
# them are skipped.
set -euo pipefail
cache=$(realpath -m "${SAMPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan}")
readonly kubernetes=v1.36.0 containerd=v2.3.4

# Builds the main package of a module, in a module of our own that wants this version of it.
build() {
    local dir=$cache/tools/$1 name=$2 module=$3 version=$4 package=$5 work
    [[ ! -x $dir/$name ]] || return 0
    if ! command -v go >/dev/null; then
        echo "SKIPPED $name: it needs Go" >&2
        return 0
    fi
    echo "building $name $version" >&2
    work=$(mktemp -d)
    printf 'module tools\n\ngo 1.24\n\nrequire %s %s\n' "$module" "$version" >"$work/go.mod"
    (cd "$work" && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/$name" "$package") >&2
    mkdir -p "$dir"
    # Another clone may do the same at this moment.
    mv "$work/$name" "$dir/$name"
    rm -rf "$work"
}

build kubernetes-$kubernetes crictl sigs.k8s.io/cri-tools $kubernetes sigs.k8s.io/cri-tools/cmd/crictl
# Beside Debian's, which is of version 1.
for program in containerd ctr; do
    module=github.com/containerd/containerd/v2
    build containerd-$containerd $program-2 $module $containerd $module/cmd/$program
done
echo "$cache/tools/kubernetes-$kubernetes:$cache/tools/containerd-$containerd"
