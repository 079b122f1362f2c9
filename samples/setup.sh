#!/usr/bin/env bash
# Installs what building Sampan needs beside Rust; says the one line to run where that takes another user.
set -euo pipefail

missing=()
command -v cc >/dev/null || missing+=(gcc)
[ -n "$(compgen -G '/usr/lib/*/libc.a')" ] || [ -e /usr/lib/libc.a ] || [ -e /usr/lib64/libc.a ] || missing+=(libc6-dev)
command -v curl >/dev/null || missing+=(curl)
command -v cargo >/dev/null || { echo "setup: Rust is missing: see https://rustup.rs" >&2; exit 1; }
[ ${#missing[@]} -eq 0 ] && exit 0

install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "setup: installing ${missing[*]}" >&2
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "setup: missing: ${missing[*]}. Run:  sudo sh -c '$install'" >&2
  exit 1
fi
