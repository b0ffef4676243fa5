#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# isa_run.sh RV_RUN SOURCE HARTS: assembles one self-checking program and runs it. 77: no cross compiler.
set -eu
command -v riscv64-linux-gnu-gcc >/dev/null || { echo "skipped: no riscv64-linux-gnu-gcc"; exit 77; }
elf=$(mktemp)
trap 'rm -f "$elf"' EXIT
riscv64-linux-gnu-gcc -nostdlib -static -march=rv64gc_zba_zbb_zbs_zicbom_zicboz -mabi=lp64d -mcmodel=medany -fno-pic -no-pie -Wl,--build-id=none \
    -Wl,-Ttext=0x80200000,-Tdata=0x80400000,--no-relax -I"$(dirname "$2")" -o "$elf" "$2"
"$1" -h "$3" -t 8 "$elf"
