"""Caches of compiled GPU kernels, kept on a local disk if the home folder is on a network file system."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from orchestrator.utils.private import runtime_folder

NETWORK_FILE_SYSTEMS = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.sshfs", "glusterfs",
    "gpfs", "lustre", "nfs", "nfs4", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
)  # fmt: skip
"""Types of file systems that other machines use too, and that are slow for many small files or keep no locks."""

CACHES = {"TRITON_CACHE_DIR": "triton", "VLLM_CACHE_ROOT": "vllm", "FLASHINFER_WORKSPACE_BASE": "flashinfer"}
"""Variable of each library that names the folder of its cache, which is in the home folder by default."""


def keep_caches_local() -> None:
    """Set the variables that name caches to this user's private folder of this machine, if the home is not local.

    Many actors that start at once would compile, write and replace the same files there. Variables that are set stay.

    Raises:
        UserError: There is no private folder.
    """
    if file_system(Path.home()) in NETWORK_FILE_SYSTEMS:
        for variable, name in CACHES.items():
            os.environ.setdefault(variable, str(runtime_folder() / "caches" / name))


def file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, such as `ext4` or `nfs4`; empty if it is unknown."""
    place = path.resolve()
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    holding = [mount for mount in mounts if place.is_relative_to(mount)]
    return mounts[max(holding, key=lambda mount: len(mount.parts))] if holding else ""
