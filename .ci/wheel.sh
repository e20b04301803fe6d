#!/usr/bin/env bash
# The wheel works from any folder, also one that holds packages of the same names as ours.
# Run after `make env`: the dependencies are borrowed from .venv, the package itself is not.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" .
rm -rf build
.venv/bin/python -m pip install --quiet --no-deps --target "$work/site" "$work"/wheel/*.whl
mkdir -p "$work/elsewhere"/{tools,benchmarks,configs,zoo_is_not_here}
touch "$work/elsewhere"/{tools,benchmarks,configs}/__init__.py
cd "$work/elsewhere"
cat > "$work/check.py" <<'PY'
import sys

site, root = sys.argv[1:3]
sys.path = [site] + [p for p in sys.path if p != root]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
import zoo

assert zoo.__file__.startswith(site), zoo.__file__
assert len(zoo.names()) > 50, zoo.names()
assert zoo.card("FCOS_R_50_1x").published["ap"] == 38.7
from tools.cli import main

assert main(["list", "FCOS_R_50*"]) == 0
PY
"$root/.venv/bin/python" "$work/check.py" "$work/site" "$root" > /dev/null
echo "wheel: works outside of the checkout"

names="from importlib.metadata import metadata as m; print(*m('fcos-zoo').get_all('Provides-Extra'), sep=',')"
extras=$("$root/.venv/bin/python" -c "$names")
"$root/.venv/bin/python" -m pip install --quiet --dry-run "$(ls "$work"/wheel/*.whl)[$extras]"
echo "wheel: its extras can be installed: $extras"
