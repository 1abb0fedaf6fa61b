#!/usr/bin/env bash
# Installs what the integration tests run against; nothing to do where all of it is there.
set -euo pipefail
packages=(
  bubblewrap buildah busybox-static ca-certificates chromium-headless-shell containernetworking-plugins crun curl
  docker-registry
  docker.io faketime fuse-overlayfs gcc git libc6-dev mmdebstrap musl-tools podman procps qemu-user-static ripgrep
  skopeo sudo tesseract-ocr tmux uidmap umoci
)
# As Node.js publishes it, both are one package.
command -v npm >/dev/null || packages+=(nodejs npm)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# A machine's services are its owner's: no daemon is started by the installation.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod +x "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
echo "installing ${missing[*]}" >&2
if ! { "${as_root[@]}" apt-get -qq update && "${as_root[@]}" apt-get -qq install -y --no-install-recommends \
  -o DPkg::Lock::Timeout=300 "${missing[@]}"; } >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
