#!/bin/sh
# Installs the real servers that the tests run against, where they are missing: Debian's packages, and under
# target/services what is built from Go modules or comes from PyPI. Can be called again at any time; what is there
# stays. A step that fails is one line on standard error and nothing more: its suites are then named as not checked in
# the table at the end of `cargo xtask test`.
set -u
here=$(cd "$(dirname "$0")" && pwd)
services=${CARGO_TARGET_DIR:-$here/../../target}/services
mkdir -p "$services/bin" || exit 1
services=$(cd "$services" && pwd)
log=$services/install.log
: >"$log"

step() { echo "==> $*"; }
failed() { echo "warning: $*" >&2; }
# Runs quietly; otherwise says what failed and the last line that it printed.
quietly() {
  what=$1
  shift
  "$@" >>"$log" 2>&1 && return 0
  failed "$what failed: $(tail -n 1 "$log")"
  return 1
}
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

packages=
has redis-server || packages="$packages redis-server"
has mariadbd || packages="$packages mariadb-server"
has postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages="$packages postgresql"
if has python3 && ! python3 -c 'import ensurepip' 2>/dev/null; then packages="$packages python3-venv"; fi
if [ -n "$packages" ]; then
  if ! has apt-get; then
    failed "not Debian: install yourself:$packages"
  elif [ "$(id -u)" != 0 ]; then
    failed "not root: run apt-get install$packages"
  else
    step "Installing$packages"
    # The tests start servers of their own: the packages must not. Their question is answered by this file.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
      made=1
      printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    quietly "apt-get update" apt-get update -q -o DPkg::Lock::Timeout=300
    for package in $packages; do
      quietly "apt-get install $package" apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$package"
    done
    [ -z "$made" ] || rm -f "$policy"
  fi
fi

# built NAME: whether the program is there and newer than the files of the module in the folder NAME.
built() { [ -z "$(find "$here/$1" -newer "$services/bin/$1" -type f 2>&1)" ]; }
# go_build NAME FOLDER PACKAGE: as a package of the module in FOLDER.
go_build() {
  quietly "building $1" go build -C "$2" -trimpath -ldflags=-s -o "$services/bin/$1" "$3" && touch "$services/bin/$1"
}

if ! built pstest; then
  if has go; then
    step "Building pstest"
    go_build pstest "$here/pstest" .
  else
    failed "pstest is not built: Go is missing"
  fi
fi
if ! has mongod && ! built ferretdb; then
  if has go; then
    step "Building FerretDB"
    # The module lacks one file, its version's name, and does not run without it: it is built from a copy that has it.
    source=$services/ferretdb
    rm -rf "$source"
    quietly "fetching FerretDB" go -C "$here/ferretdb" mod download github.com/FerretDB/FerretDB
    module=$(go -C "$here/ferretdb" list -m -f '{{.Dir}} {{.Version}}' github.com/FerretDB/FerretDB 2>>"$log")
    if cp -R "${module% *}" "$source" 2>>"$log" && chmod -R u+w "$source"; then
      echo "${module##* }" >"$source/build/version/version.txt"
      go_build ferretdb "$source" ./cmd/ferretdb
      rm -rf "$source"
    else
      failed "FerretDB's module is not to be had; see $log"
    fi
  else
    failed "FerretDB is not built: Go is missing"
  fi
fi

python=$services/python
if ! has python3; then
  failed "no servers from PyPI: python3 is missing"
elif ! cmp -s "$here/requirements.txt" "$python/installed.txt"; then
  step "Installing servers from PyPI"
  if quietly "python3 -m venv" python3 -m venv "$python"; then
    complete=1
    # One by one: where one is not to be had, the others still are.
    grep -v '^#' "$here/requirements.txt" >"$services/requirements.txt"
    while read -r requirement; do
      quietly "pip install $requirement" "$python/bin/pip" install -q --disable-pip-version-check "$requirement" || complete=
    done <"$services/requirements.txt"
    [ -z "$complete" ] || cp "$here/requirements.txt" "$python/installed.txt"
  fi
fi
exit 0
