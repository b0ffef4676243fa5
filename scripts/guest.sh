#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Fetches Debian's riscv64 kernel and static busybox through apt (signatures checked; the mirror is the one in this machine's
# apt sources), builds our guest programs with the cross compiler, and prints the folder that holds Image and sterna.ird.
# The folder is a cache: $STERNA_CACHE, else ~/.cache/sterna/guest. Uses nothing of the machine's own apt state.
set -eu
here=$(realpath "$(dirname "$0")")
out=${STERNA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sterna}/guest
suite=${STERNA_GUEST_SUITE:-trixie} # the first Debian release with riscv64
mkdir -p "$out"
say() { echo "guest: $*" >&2; }

mirror() {
    { awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/*.sources 2>/dev/null
      awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z+]+:/) { print $i; exit } }' /etc/apt/sources.list \
          /etc/apt/sources.list.d/*.list 2>/dev/null; } | head -1
}
fetch() {
    local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg apt=$out/apt kernel
    uri=$(mirror)
    [ -n "$uri" ] || { say "no mirror found in this machine's apt sources; set STERNA_GUEST=DIR to a folder of your own"; return 1; }
    [ -e "$keyring" ] || { say "$keyring is missing: install debian-archive-keyring"; return 1; }
    rm -rf "$apt" "$out/root"
    mkdir -p "$apt"/{etc/sources.list.d,etc/preferences.d,lists/partial,cache/archives/partial,debs}
    echo "deb [arch=riscv64 signed-by=$keyring] $uri $suite main" >"$apt/etc/sources.list"
    local opt=(-o Dir::Etc="$apt/etc" -o Dir::Etc::SourceList="$apt/etc/sources.list" -o Dir::Etc::SourceParts="$apt/etc/sources.list.d"
        -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache"
        -o APT::Architecture=riscv64 -o APT::Architectures=riscv64 -o APT::Sandbox::User="$(id -un)" -o Acquire::Languages=none)
    say "fetching the list of Debian $suite riscv64"
    apt-get -qq "${opt[@]}" update >&2
    kernel=$(apt-cache "${opt[@]}" depends linux-image-riscv64 | awk '/Depends:/ { print $2; exit }')
    [ -n "$kernel" ] || { say "no linux-image-riscv64 in $suite"; return 1; }
    say "fetching $kernel and busybox-static"
    (cd "$apt/debs" && apt-get -qq "${opt[@]}" download "$kernel" busybox-static >&2)
    for d in "$apt"/debs/*.deb; do dpkg-deb -x "$d" "$out/root"; done
    cp "$out"/root/boot/vmlinu?-* "$out/Image.new" && mv "$out/Image.new" "$out/Image"
    rm -rf "$apt"
}
module() { # NAME [fs/]NUMBER: from the kernel package into the initramfs, decompressed
    local f
    f=$(find "$out/root/" -name "$1.ko*" -print -quit)
    case "$f" in
        "") return 0 ;;
        *.xz) xz -dc "$f" >"$ird/mod/$2-$1.ko" ;;
        *.zst) zstd -qdc "$f" >"$ird/mod/$2-$1.ko" ;;
        *) cp "$f" "$ird/mod/$2-$1.ko" ;;
    esac
}
initramfs() {
    local ird=$out/ird.tmp n=10
    rm -rf "$ird"; mkdir -p "$ird"/{bin,proc,sys,dev,mod/fs,tmp}
    cp "$out"/root/usr/bin/busybox "$ird/bin/" 2>/dev/null || cp "$out"/root/bin/busybox "$ird/bin/"
    for p in stamp sgio nvram pages; do riscv64-linux-gnu-gcc -O2 -Wall -static -o "$ird/bin/$p" "$here/guest/$p.c"; done
    for m in virtio_mmio virtio_blk scsi_common scsi_mod sd_mod sg cdrom sr_mod virtio_scsi virtio-rng failover net_failover virtio_net; do n=$((n + 1)); module $m $n; done
    for m in crc16 mbcache jbd2 ext4 isofs; do n=$((n + 1)); module $m fs/$n; done
    cp "$here/guest/init" "$ird/init"; chmod 755 "$ird/init"
    (cd "$ird" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | gzip -1n) >"$out/sterna.ird.new"
    mv "$out/sterna.ird.new" "$out/sterna.ird"; rm -rf "$ird"
}
[ -e "$out/Image" ] && [ -d "$out/root" ] || fetch
key=$(cat "$here/guest.sh" "$here/guest/init" "$here"/guest/*.c | sha256sum)
if [ ! -e "$out/sterna.ird" ] || [ "$(cat "$out/key" 2>/dev/null)" != "$key" ]; then
    initramfs
    echo "$key" >"$out/key"
fi
echo "$out"
