#!/usr/bin/env bash
# Installs exlpool into a virtual environment of this machine, with what its GPU needs: torch for CUDA, and ExLlamaV2's
# extension and flash-attn, both compiled here (half an hour and more, once; 2 GB of memory for every job of MAX_JOBS).
#
#   cluster/install.sh VENV           everything; what is there already is left alone
#   cluster/install.sh VENV engine    only what takes long and seldom changes: a layer of its own in an image
#
# It needs Python 3.11 to 3.13 with venv and, for a GPU, git, a C++ compiler and the CUDA toolkit (nvcc) of CUDA_INDEX.
set -euo pipefail

venv=${1:?"usage: install.sh VENV [engine]"}
what=${2:-all}
source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# gpu or cpu; by default what this machine is.
VARIANT=${VARIANT:-$(command -v nvidia-smi >/dev/null && echo gpu || echo cpu)}
PYTHON=${PYTHON:-python3}
# One set of versions that work together (seen on H100s). Change them together.
CUDA_INDEX=${CUDA_INDEX:-cu130}
TORCH_VERSION=${TORCH_VERSION:-2.11.0}
EXLLAMAV2_VERSION=${EXLLAMAV2_VERSION:-0.3.2}
FLASH_ATTN_VERSION=${FLASH_ATTN_VERSION:-2.8.3.post2}
# The GPUs to compile for: 8.0 A100, 8.6 RTX 30, 8.9 RTX 40 and L4, 9.0 H100, 12.0 RTX 50. Fewer compile faster.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-8.6;8.9}
# The same for flash-attn, which runs on a whole generation by its first member: 80, 90, 120.
export FLASH_ATTN_CUDA_ARCHS=${FLASH_ATTN_CUDA_ARCHS:-80}
export MAX_JOBS=${MAX_JOBS:-4}

[ -x "$venv/bin/python" ] || "$PYTHON" -m venv "$venv"
python=$venv/bin/python
# The versions that were tested, except of torch: that file has the one for CPUs.
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
grep -v '^torch==' "$source_dir/constraints.txt" >"$constraints"

install() {
  "$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@"
}

install_engine() {
  if [ "$VARIANT" = cpu ]; then
    tested=$(sed -n 's/^torch==//p' "$source_dir/constraints.txt")
    install "torch==$tested" --extra-index-url https://download.pytorch.org/whl/cpu
    return
  fi
  install "torch==$TORCH_VERSION" --extra-index-url "https://download.pytorch.org/whl/$CUDA_INDEX"
  install numpy ninja packaging setuptools wheel # what the two builds below import
  if ! "$python" -c 'import torch, exllamav2_ext' 2>/dev/null; then
    # PyPI has only a package that compiles at the first import, on every machine again.
    install --no-build-isolation \
      "exllamav2 @ git+https://github.com/turboderp-org/exllamav2@v$EXLLAMAV2_VERSION"
  fi
  install --no-build-isolation "flash-attn==$FLASH_ATTN_VERSION"
}

case $what in
  engine) install_engine ;;
  all)
    install_engine
    extra=$([ "$VARIANT" = gpu ] && echo '[exllamav2]' || true)
    install "$source_dir$extra"
    ;;
  *)
    echo "install.sh: $what is neither engine nor left out" >&2
    exit 2
    ;;
esac
