#!/usr/bin/env bash
# Builds the sample guests: `./build.sh [NAME…]`, all of them without a name, but for `hello-js`, which the benchmarks alone
# use. `--list` prints the names.
#
# A guest is kept outside the clone, under the hash of all that goes into it: its sources, its recipe below and the
# versions that the two pin. One that did not change is copied from there and needs no toolchain at all.
set -euo pipefail
export LC_ALL=C

cache=$(realpath -m "${SAMPAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sampan}")
cd "$(dirname "${BASH_SOURCE[0]}")"
readonly guests=$cache/guests tools=$cache/tools
# Two clones may have the same crate with other sources, and cargo would take the one's module for the other's.
target=$cache/target/$(printf '%s' "$PWD" | sha256sum | cut -c1-12)
readonly target
readonly names=(hello hello-http probe probe-component toolbox spawn c go go-web serve nginx web tcp p3 web3 python quickjs)

# The recipe of each guest: `make_` and the first word is the function that follows it, the rest is what that is told.
recipe() {
    case $1 in
        hello | probe | serve | toolbox) echo "rust $1 module" ;;
        probe-component) echo "rust probe command component" ;;
        spawn | tcp) echo "rust $1 command" ;;
        hello-http | web) echo "rust $1 proxy" ;;
        nginx | p3 | web3) echo "rust $1 reactor" ;;
        go | go-web) echo "go $1" ;;
        c | python | quickjs) echo "$1" ;;
        hello-js) echo "js $1" ;;
        *) fail "there is no sample $1, only: ${names[*]}" ;;
    esac
}

# What a recipe reads beside itself.
sources() {
    case $1 in
        rust)
            echo "Cargo.toml Cargo.lock componentize/Cargo.toml componentize/Cargo.lock componentize/src $2"
            [[ $2 != toolbox && $2 != spawn ]] || echo process
            ;;
        go) echo "$2" ;;
        # The interface definitions come out of a crate that the Rust guests use.
        js) echo Cargo.lock "$2" ;;
        python) echo Cargo.lock python/lib python/*.py python/python.wit ;;
        *) echo "$1" ;;
    esac
}

# make_rust OUT CRATE ADAPTER [FEATURE]: a WASI 0.1 module; a component unless the adapter is called `module`.
make_rust() {
    local out=$1 crate=$2 adapter=$3 feature=${4:-} cargo=(cargo)
    # A guest tells the names of its source files. That of the home directory they lie in need not be among them.
    local flags="'--remap-path-prefix', '$HOME=~'"
    if ! has_rust_target; then
        # Debian ships the compiler, the C library and the source of the standard library, which is built on the way.
        flags+=", '-L', 'native=/usr/lib/wasm32-wasi'"
        cargo=(env PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 cargo
            "-Zbuild-std=std,panic_abort" -Zbuild-std-features= --config "target.wasm32-wasip1.linker='wasm-ld-19'")
    fi
    "${cargo[@]}" --config "target.wasm32-wasip1.rustflags=[$flags]" build --quiet --release --locked \
        --target wasm32-wasip1 --target-dir "$target/guests" --package "$crate" --features "$feature"
    local module=$target/guests/wasm32-wasip1/release/${crate//-/_}.wasm
    if [[ $adapter == module ]]; then
        cp "$module" "$out"
    else
        cargo install --quiet --locked --path componentize --root "$tools" --target-dir "$target/componentize"
        "$tools/bin/componentize" "$module" --adapter "$adapter" -o "$out"
    fi
}

make_c() {
    clang-19 --target=wasm32-wasi --sysroot=/usr -Os -s -Wall -Wextra -o "$1" c/wc.c
}

make_go() {
    GOOS=wasip1 GOARCH=wasm go build -C "$2" -trimpath -buildvcs=false -ldflags='-s -w' -o "$1" .
}

# The interpreter runs while it is built, and its state is what the component starts from.
make_python() {
    local version=0.25.1
    local venv=$tools/componentize-py-$version
    if [[ ! -x $venv/bin/componentize-py ]]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "componentize-py==$version"
    fi
    # A copy, since Python leaves its caches beside the sources; those of pip are wanted.
    local work=${1%.wasm} pip=26.3
    mkdir -p "$work/site-packages" "$work/download"
    cp -r python/*.py python/lib "$work"
    "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work/download" "pip==$pip"
    python3 -m zipfile -e "$work/download/pip-$pip-py3-none-any.whl" "$work/site-packages"
    # Without VIRTUAL_ENV it would look for packages in the Python of this machine.
    VIRTUAL_ENV=$venv "$venv/bin/componentize-py" --quiet \
        --wit-path "$(crate . wasip2)/wit" --wit-path python/python.wit --world sampan:python/interpreter \
        componentize --python-path "$work" interpreter --output "$1"
    echo pip >"$work/site-packages/pip-$pip.dist-info/INSTALLER"
    # Files of an image bear their own times: the same wherever it is built.
    find "$work/site-packages" -exec touch --date=@1767225600 {} +
    mkdir "${1%.wasm}.files"
    mv "$work/site-packages" "${1%.wasm}.files"
}

make_quickjs() {
    local source
    source=$(crate quickjs rquickjs-sys)/quickjs
    clang-19 --target=wasm32-wasi --sysroot=/usr -O2 -s -w -Wl,-z,stack-size=1048576,--stack-first \
        -D_GNU_SOURCE -D_WASI_EMULATED_PROCESS_CLOCKS -D_WASI_EMULATED_SIGNAL -I "$source" \
        -ffile-prefix-map="$source=quickjs" \
        "$source"/{quickjs,libregexp,libunicode,dtoa,quickjs-libc,qjs,gen/repl,gen/standalone}.c \
        -lwasi-emulated-process-clocks -lwasi-emulated-signal -o "$1"
}

# All of SpiderMonkey, with the program already read.
make_js() {
    local version=0.23.0
    local tool=$tools/componentize-js-$version work=${1%.wasm}
    if [[ ! -x $tool/node_modules/.bin/componentize-js ]]; then
        mkdir -p "$tool"
        npm install --silent --no-save --prefix "$tool" "@bytecodealliance/componentize-js@$version" >&2
    fi
    mkdir "$work"
    cp -r "$(crate . wasip2)/wit/deps" "$2/service.wit" "$work"
    "$tool/node_modules/.bin/componentize-js" "$2/$2.js" --wit "$work" --world-name service \
        --disable fetch-event http --out "$1" >&2
    rm -rf "$work"
}

# crate DIRECTORY NAME: where cargo keeps the sources of a crate that the package in the directory uses.
crate() {
    local manifest
    manifest=$(cargo metadata --locked --format-version 1 --manifest-path "$1/Cargo.toml" |
        grep -o "\"manifest_path\":\"[^\"]*/$2-[0-9][^\"]*/Cargo.toml\"" | cut -d '"' -f 4)
    dirname "$manifest"
}

# Whether the Rust compiler at hand has a standard library for WASI.
has_rust_target() {
    local libraries
    libraries=$(rustc --print target-libdir --target wasm32-wasip1 2>/dev/null) && [[ -d $libraries ]]
}

# The Debian packages that a recipe asks for.
packages() {
    case $1 in
        rust) has_rust_target || echo rustc-web cargo-web rust-web-src lld-19 wasi-libc ;;
        c | quickjs) echo clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32 ;;
        python) python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv ;;
        js) command -v npm >/dev/null || echo npm ;;
        go) command -v go >/dev/null || echo golang-go ;;
    esac
}

# Installs what the recipes ask for and is not there; without the right to, says how and gives up.
install_packages() {
    if ((EUID)) && [[ " $* " == *" rust "* ]] && ! has_rust_target && command -v rustup >/dev/null; then
        fail "first run: rustup target add wasm32-wasip1"
    fi
    local missing=() family package
    for package in $(for family in "$@"; do packages "$family"; done | tr ' ' '\n' | sort -u); do
        [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
    ((EUID == 0)) || fail "first run: sudo ${install[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${install[@]}" -qq >/dev/null
}

# The file in the cache that holds this guest as it is now.
cached() {
    local recipe hash
    recipe=$(recipe "$1")
    # Lists of words both, so not quoted.
    # shellcheck disable=SC2046,SC2086
    hash=$({
        echo "$recipe"
        declare -f "make_${recipe%% *}"
        find $(sources $recipe) -type f ! -name '*.wasm' ! -name Dockerfile -print0 | sort -z | xargs -0 sha256sum
    } | sha256sum)
    echo "$guests/$1-${hash:0:16}.wasm"
}

# Puts a guest from the cache in its place, with what belongs to it, unless it is there: others may be reading it.
place() {
    local file=$1/$1.wasm source goal
    for source in "${2%.wasm}.files"/*; do
        goal=$1/${source##*/}
        [[ ! -e $source ]] || diff -rq "$source" "$goal" >/dev/null 2>&1 && continue
        cp -a "$source" "$goal.$$"
        rm -rf "$goal" && mv "$goal.$$" "$goal"
    done
    if ! cmp -s "$2" "$file"; then
        cp "$2" "$file.$$" && mv -f "$file.$$" "$file"
    fi
    [[ $1 != toolbox ]] || furnish_toolbox
}

# The tree of the toolbox's image: the one program, by each of its names (hard links, so that one can be masked alone).
furnish_toolbox() {
    local new=toolbox/root.$$ name
    mkdir -p "$new"/{bin,etc,root,tmp,usr/bin}
    cp toolbox/toolbox.wasm "$new/bin/toolbox"
    for name in sh $(sed -n 's/^    ("\([^"]*\)", .*/\1/p' toolbox/src/applets/mod.rs); do
        ln "$new/bin/toolbox" "$new/bin/$name"
    done
    ln "$new/bin/toolbox" "$new/usr/bin/env"
    # The accounts that images of others count on (Debian's numbers).
    printf '%s\n' root:x:0:0:root:/root:/bin/sh www-data:x:33:33::/:/bin/false nobody:x:65534:65534::/:/bin/false >"$new/etc/passwd"
    printf '%s\n' root:x:0: www-data:x:33: users:x:100: nogroup:x:65534: >"$new/etc/group"
    if diff -r --no-dereference "$new" toolbox/root >/dev/null 2>&1; then
        rm -r "$new"
    else
        rm -rf toolbox/root && mv "$new" toolbox/root
    fi
}

# Takes a guest from the cache, if it is there.
take() {
    local file
    file=$(cached "$1")
    [[ -e $file ]] && place "$1" "$file" && say "$1  cached"
}

# Builds a guest into the cache.
build() {
    local start=${EPOCHREALTIME/./} work recipe
    work=$(mktemp -d "$guests/work.XXXXXX")
    # In a shell of its own, so that what is left of it goes away however it ends.
    (
        trap 'rm -rf "$work"' EXIT
        recipe=$(recipe "$1")
        # shellcheck disable=SC2086 # a list of words
        "make_${recipe%% *}" "$work/guest.wasm" ${recipe#"${recipe%% *}"}
        chmod 644 "$work/guest.wasm"
        # First what belongs to it, since the file is what is looked for.
        rm -rf "${2%.wasm}.files"
        [[ ! -d $work/guest.files ]] || { touch "$work/guest.files" && mv "$work/guest.files" "${2%.wasm}.files"; }
        mv "$work/guest.wasm" "$2"
    )
    # What nobody has built for a month is of no branch that is worked on.
    find "$guests" -maxdepth 1 -name "$1-????????????????.*" -mtime +30 -exec rm -rf {} +
    local tenths=$(((${EPOCHREALTIME/./} - start) / 100000))
    say "$1  built in $((tenths / 10)).$((tenths % 10)) s, $(($(stat -c %s "$2") / 1024)) KB"
}

say() {
    echo "$*" >&2
}

fail() {
    say "build.sh: $*"
    exit 1
}

main() {
    local wanted=("$@") name todo=() families=()
    case ${1:-} in
        --list) printf '%s\n' "${names[@]}" && return ;;
        '') wanted=("${names[@]}") ;;
    esac
    mkdir -p "$guests"
    for name in "${wanted[@]}"; do
        recipe "$name" >/dev/null
        take "$name" && continue
        todo+=("$name")
        families+=("$(recipe "$name" | cut -d ' ' -f 1)")
    done
    ((${#todo[@]})) || return 0

    # One build at a time: they share target directories, and the machine.
    exec 9>"$guests/lock"
    flock 9
    install_packages "${families[@]}"
    for name in "${todo[@]}"; do
        # Another may have built it while we waited.
        take "$name" && continue
        build "$name" "$(cached "$name")"
        place "$name" "$(cached "$name")"
    done
}

main "$@"
