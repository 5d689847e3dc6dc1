#!/usr/bin/env bash
# Build an image with buildah, which needs no container engine, and print its size.
# Usage: docker/build_image.sh cpu|gpu [debian]
#
# The base is the one that the Dockerfile names. With `debian`, it is made here by debootstrap, for a machine that reaches
# Debian's packages and PyPI but no registry of images; MIRROR and SUITE override where it takes them from. The certificates
# of this machine (SSL_CERT_FILE) and a folder of wheels (UV_FIND_LINKS) are lent to the build and are not in the image.
# Needs root, buildah and, with `debian`, debootstrap. BUILDAH_OPTIONS are options of buildah itself, such as --root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
engine=$1 base=${2:-}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
name=localhost/safety-landscape:$version-$engine
own_base=localhost/safety-landscape-base
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT

read -ra own <<<"${BUILDAH_OPTIONS:-}"
buildah=(buildah ${own[@]+"${own[@]}"})
options=(--isolation chroot --network host --format docker --layers)

if [ "$base" = debian ] && ! "${buildah[@]}" inspect --type image "$own_base" >/dev/null 2>&1; then
    mirror=${MIRROR:-$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)}
    debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
        "${SUITE:-bookworm}" "$work/tree" "${mirror:-http://deb.debian.org/debian}" >"$work/debootstrap.log" ||
        { tail -5 "$work/debootstrap.log" >&2 && exit 1; }
    rm -rf "$work/tree"/var/{cache/apt/archives,lib/apt/lists}/*
    printf 'FROM scratch\nCOPY tree /\n' >"$work/Dockerfile"
    "${buildah[@]}" build --quiet "${options[@]}" --tag "$own_base" -f "$work/Dockerfile" "$work"
    rm -rf --one-file-system "$work/tree"
fi
if [ "$base" = debian ]; then options+=(--build-arg "BASE=$own_base"); fi

if [ -n "${SSL_CERT_FILE:-}" ]; then
    printf 'system-certs = true\n' >"$work/uv.toml"
    options+=(--volume "$SSL_CERT_FILE:/etc/ssl/certs/ca-certificates.crt:ro" --volume "$work/uv.toml:/etc/uv/uv.toml:ro")
fi
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/pip.conf"
if [ -n "${UV_FIND_LINKS:-}" ]; then
    printf 'find-links = %s\n' "$UV_FIND_LINKS" >>"$work/pip.conf"
    options+=(--volume "$UV_FIND_LINKS:$UV_FIND_LINKS:ro" --build-arg TORCH_BACKEND=)
fi
options+=(--volume "$work/pip.conf:/etc/pip.conf:ro")

"${buildah[@]}" build "${options[@]}" --tag "$name" -f "docker/Dockerfile.$engine" . >&2
"${buildah[@]}" images --format '{{.Name}}:{{.Tag}} {{.Size}}' "$name"
