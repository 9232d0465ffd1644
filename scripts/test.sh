#!/usr/bin/env bash
# Everything that must hold, on a fresh Debian 12 machine as root: installs what it needs into .venv and with apt-get, then lints,
# type-checks, and runs the unit, plugin, integration and end-to-end tests (real sshd, real dockerd, real vLLM on CPU).
#   scripts/test.sh            all of it (about 26 minutes on 2 cores)
#   scripts/test.sh fast       without the lab: no root, no engine
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE  # with it, each of some thousand processes compiles all of its modules anew
what=${1:-all}

step() { printf '\n=== %s (%s s)\n' "$*" "$SECONDS"; }

step "Debian packages"
needed=()
python3 -c 'import ensurepip, venv' 2>/dev/null || needed+=(python3-venv python3-pip)
# Of these the tests make a container image, are a login that is not root, and ask every shell a node may have.
[ "$what" = fast ] || for tool in busybox:busybox-static sudo:sudo zsh:zsh tcsh:tcsh fish:fish; do
  command -v "${tool%:*}" >/dev/null || needed+=("${tool#*:}")
done
if [ ${#needed[@]} -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q && apt-get install -qy --no-install-recommends "${needed[@]}"
fi

step "Python environment"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev,store,docs]'
export PATH="$PWD/.venv/bin:$PATH"

if [ "$what" = all ]; then  # mostly downloads: it goes on beside what measures nothing
  python -m tests.lab setup >.lab-setup.log 2>&1 &
  setup=$!
  trap 'kill "$setup" 2>/dev/null || true' EXIT
fi

# A venv with the lowest versions of pyproject.toml: the download goes on beside what measures nothing.
low=$(mktemp -d)
lowest_venv() {
  python3 -m venv "$low/venv"
  python scripts/lowest_versions.py >"$low/lowest.txt"
  "$low/venv/bin/python" -m pip install -q --disable-pip-version-check -c "$low/lowest.txt" -e .
}
lowest_venv >"$low/log" 2>&1 &
lowest_ready=$!

step "Lint and types"
ruff check .
ruff format --check .
mypy

step "The pages as a site: no link and no anchor leads nowhere"
NO_MKDOCS_2_WARNING=1 mkdocs build --strict -d "$low/site"  # with -q no warning is counted, and --strict fails for none

# A promise that nothing holds to is none: the lowest versions, inert and in a short rehearsal.
lowest() {
  local python=$low/venv/bin/python
  timeout 1m "$python" -m pytest -q -p no:cacheprovider tests/plugin/test_inert.py
  cd "$low"
  timeout 2m "$python" -m pytest -q -p no:cacheprovider -n 2 --engine=sglang --nodes=rehearsal:quick --h20-history=none \
    --html=report.html --self-contained-html -k "docker or bringup or model or stream or concurrency or c1"
}
step "The lowest versions that are promised"
wait "$lowest_ready" || { cat "$low/log"; exit 1; }
(lowest)
rm -rf "$low"

step "Unit tests"
timeout 20m pytest -q -n 2 --dist worksteal tests/unit
[ "$what" != all ] || wait "$setup" || { cat .lab-setup.log; exit 1; }

# Nothing is tried twice: what a second test at its side could disturb is marked `alone`, and runs so.
step "Plugin tests"
timeout 30m pytest -q -n 2 --dist loadfile -m "not alone" --ignore tests/plugin/test_kill_table.py tests/plugin

step "The kill table: every fault turns exactly its checks red, and every dialect without a fault is green"
# Its rows mostly wait, those that measure load too: three at a time take two thirds of two cores.
timeout 30m pytest -q -n 3 --dist worksteal -m "not alone" -k "not (throughput or no_fault or soak)" tests/plugin/test_kill_table.py
timeout 30m pytest -q -n 3 --dist worksteal -m "not alone" -k "throughput or no_fault or soak" tests/plugin/test_kill_table.py
step "What must run alone"
timeout 15m pytest -q -m alone tests/plugin

if [ "$what" = all ]; then
  step "The lab: two nodes with real sshd, dockerd and vLLM"
  cat .lab-setup.log
  trap 'python -m tests.lab down' EXIT
  step "Integration tests"
  H20_SOFT_ROCE="${H20_SOFT_ROCE:-0}" timeout 15m pytest -q tests/integration
  step "End to end on the lab"
  timeout 20m pytest -q tests/e2e
fi
step "done"
