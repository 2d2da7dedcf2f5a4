#!/usr/bin/env bash
# Installs what every test wants, with apt: a compiler, emulators, a debugger. The kernel that tests boot is only unpacked.
set -euo pipefail
cd "$(dirname "$0")/.."

read -r -a packages <<< "$(sh tools/doctor.sh --packages test)"
command -v gdb > /dev/null || packages+=(gdb)
command -v qemu-storage-daemon > /dev/null || packages+=(qemu-system-common)
command -v qemu-system-x86_64 > /dev/null || packages+=(qemu-system-x86 seabios)
command -v qemu-system-aarch64 > /dev/null || packages+=(qemu-system-arm)
command -v iasl > /dev/null || packages+=(acpica-tools)
command -v chromium > /dev/null || packages+=(chromium)
command -v dtc > /dev/null || packages+=(device-tree-compiler)
command -v virsh > /dev/null || packages+=(libvirt-clients libvirt-daemon-driver-qemu)
command -v strace > /dev/null || packages+=(strace)
command -v xmllint > /dev/null || packages+=(libxml2-utils)
[[ $(uname -m) != x86_64 ]] || compgen -G 'target/kernel/boot/vmlinuz-*' > /dev/null || kernel=1

((${#packages[@]} || ${kernel:-0})) || exit 0
as_root=()
((EUID == 0)) || as_root=(sudo)
"${as_root[@]}" apt-get update
if ((${#packages[@]})); then
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}"
fi
if ((${kernel:-0})); then
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    mkdir -p target/kernel
    (cd target/kernel && apt-get download "$image" && dpkg-deb -x "$image"_*.deb . && rm "$image"_*.deb)
fi
