#!/usr/bin/python3
"""The floor of the benchmark: the bare calls of an operation from one process. Prints the seconds they took.

  floor.py backup SPEC     SPEC: JSON {domain, disks: [{target, file}], checkpoint, parent, redefine}
  floor.py copy SRC DST    each SRC's data to DST (a file, or a folder for several), shared if the file system can; synced
  floor.py read FILE       all of it, in order, past the page cache
  floor.py delete FOLDER   renamed, synced, removed, synced
  floor.py stats FOLDER
"""

import errno
import fcntl
import json
import mmap
import os
import sys
import time

FICLONE = 0x40049409
CHUNK = 4 << 20


def backup(spec):
    """From virDomainBackupBegin to the close of the last target. The targets are there, made beforehand."""
    import libvirt

    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open("qemu:///system")
    domain = connection.lookupByName(spec["domain"])
    open_disks = {disk["target"] for disk in spec["disks"]}
    failed = []

    def block_job(_connection, _domain, disk, kind, status, _opaque):
        if kind == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP and status != libvirt.VIR_DOMAIN_BLOCK_JOB_READY:
            open_disks.discard(disk)
            if status != libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED:
                failed.append(f"{disk}: status {status}")

    connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, block_job, None)
    begun = time.monotonic()
    if spec.get("redefine"):
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE | libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
        domain.checkpointCreateXML(checkpoint_xml(spec["parent"], spec["disks"]), flags)
    domain.backupBegin(backup_xml(spec), checkpoint_xml(spec["checkpoint"], spec["disks"]),
                       libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    while open_disks:
        libvirt.virEventRunDefaultImpl()
    took = time.monotonic() - begun
    if failed:
        sys.exit(f"floor: {failed}")
    return took


def backup_xml(spec):
    parent = f"<incremental>{spec['parent']}</incremental>" if spec.get("parent") else ""
    disks = "".join(
        f"<disk name='{disk['target']}' backup='yes' type='file'><driver type='qcow2'/><target file='{disk['file']}'/></disk>"
        for disk in spec["disks"])
    return f"<domainbackup mode='push'>{parent}<disks>{disks}</disks></domainbackup>"


def checkpoint_xml(name, disks):
    disks = "".join(f"<disk name='{disk['target']}' checkpoint='bitmap'/>" for disk in disks)
    return (f"<domaincheckpoint><name>{name}</name><creationTime>{name.rpartition('-')[2]}</creationTime>"
            f"<disks>{disks}</disks></domaincheckpoint>")


def copy(sources, target):
    begun = time.monotonic()
    for source in sources:
        place = os.path.join(target, os.path.basename(source)) if os.path.isdir(target) else target
        read, write = os.open(source, os.O_RDONLY), os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            fcntl.ioctl(write, FICLONE, read)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
                raise
            while data := memoryview(os.read(read, CHUNK)):
                while data:
                    data = data[os.write(write, data):]
        os.fsync(write)
        os.close(read)
        os.close(write)
    return time.monotonic() - begun


def read(file):
    buffer = mmap.mmap(-1, CHUNK)  # O_DIRECT wants memory that begins with a page
    begun = time.monotonic()
    opened = os.open(file, os.O_RDONLY | os.O_DIRECT)
    while os.readv(opened, [buffer]) == CHUNK:  # less is the end
        pass
    os.close(opened)
    return time.monotonic() - begun


def delete(folder):
    parent, name = os.path.split(folder)
    hidden = os.path.join(parent, ".deleted-" + name)
    begun = time.monotonic()
    at = os.open(parent, os.O_RDONLY)
    os.rename(folder, hidden)
    os.fsync(at)
    for each in os.scandir(hidden):
        os.unlink(each.path)
    os.rmdir(hidden)
    os.fsync(at)
    os.close(at)
    return time.monotonic() - begun


def stats(folder):
    begun = time.monotonic()
    os.statvfs(folder)
    return time.monotonic() - begun


def main(arguments):
    match arguments:
        case ["backup", spec]:
            took = backup(json.loads(spec))
        case ["copy", *sources, target] if sources:
            took = copy(sources, target)
        case ["read", file]:
            took = read(file)
        case ["delete", folder]:
            took = delete(folder)
        case ["stats", folder]:
            took = stats(folder)
        case _:
            sys.exit(__doc__)
    print(f"{took:.6f}")


main(sys.argv[1:])
