#!/bin/bash
# The shell path that the benchmark compares with: an own script with the steps, tools, options and output of the one
# that CloudStack's agent runs (docs/benchmark.md says what it is written after). Not for use on a hypervisor.
set -eo pipefail

log=/var/log/cloudstack/agent/agent.log

die() {
    echo "$*" | tee -a "$log"
    exit 1
}

number() { # number 9.0.1 -> 9000001
    local IFS=. parts
    read -ra parts <<<"$1"
    echo $((${parts[0]} * 1000000 + ${parts[1]:-0} * 1000 + ${parts[2]:-0}))
}

check_versions() {
    local hypervisor library
    hypervisor=$(virsh version | awk '/^Running hypervisor/ { print $NF }')
    library=$(virsh version | awk '/^Using library/ { print $NF }')
    (($(number "$hypervisor") >= $(number 4.2.0))) || die "QEMU $hypervisor is too old"
    (($(number "$library") >= $(number 7.2.0))) || die "libvirt $library is too old"
}

mount_repository() {
    local options=$mount_options
    mount_point=$(mktemp -d -t csbackup.XXXXX)
    [[ $type != cifs ]] || options+=,nobrl
    mount -t "$type" "$address" "$mount_point" ${options:+-o "$options"} 2>&1 | tee -a "$log"
}

unmount_repository() {
    umount "$mount_point"
    rmdir "$mount_point"
}

cleanup() {
    local failed=0
    rm -rf "${dest:?}" || failed=1
    umount "$mount_point" || failed=1
    rmdir "$mount_point" || failed=1
    ((failed == 0)) || exit 20
}

# One "target source" line for each disk.
disks() {
    virsh domblklist "$vm" --details | awk '$2 == "disk" { print $3, $4 }'
}

write_xml() {
    local name=root target source
    {
        echo "<domainbackup mode='push'>"
        [[ $mode != incremental ]] || echo "<incremental>$bitmap_parent</incremental>"
        echo "<disks>"
        while read -r target source; do
            echo "<disk name='$target' backup='yes' type='file'><driver type='qcow2'/>"
            echo "<target file='$dest/$name.${source##*/}.qcow2'/></disk>"
            name=datadisk
        done < <(disks)
        echo "</disks></domainbackup>"
    } >"$dest/backup.xml"
    [[ -z $bitmap_new ]] || echo "<domaincheckpoint><name>$bitmap_new</name></domaincheckpoint>" >"$dest/checkpoint.xml"
}

# A restarted guest's checkpoint is made known again, when each disk still has its bitmap.
recreate_parent() {
    local target source found
    ! virsh checkpoint-info "$vm" "$bitmap_parent" >/dev/null 2>&1 || return 0
    found=$(virsh qemu-monitor-command "$vm" '{"execute":"query-block"}' |
        { grep -o "\"name\":\"$bitmap_parent\"" || true; } | wc -l)
    if ((found < $(disks | wc -l))); then
        mode=full
        fallback=true
        return 0
    fi
    {
        echo "<domaincheckpoint><name>$bitmap_parent</name><creationTime>${bitmap_parent#backup-}</creationTime><disks>"
        while read -r target source; do
            echo "<disk name='$target' checkpoint='bitmap' bitmap='$bitmap_parent'/>"
        done < <(disks)
        echo "</disks></domaincheckpoint>"
    } >"$dest/recreate-checkpoint.xml"
    virsh checkpoint-create "$vm" "$dest/recreate-checkpoint.xml" --redefine >>"$log" 2>&1
    recreated=$bitmap_parent
}

begin() {
    local begun=0
    [[ $quiesce != true ]] || virsh domfsfreeze "$vm" >>"$log" 2>&1 || true
    virsh backup-begin "$vm" --backupxml "$dest/backup.xml" ${bitmap_new:+--checkpointxml "$dest/checkpoint.xml"} \
        >>"$log" 2>&1 || begun=$?
    [[ $quiesce != true ]] || virsh domfsthaw "$vm" >>"$log" 2>&1 || begun=1
    ((begun == 0)) || { cleanup && die "the backup of $vm did not begin"; }
}

describe() {
    virsh dumpxml "$vm" >"$dest/domain-config.xml"
    virsh dominfo "$vm" >"$dest/dominfo.xml"
    virsh domiflist "$vm" >"$dest/domiflist.xml"
    virsh domblklist "$vm" >"$dest/domblklist.xml"
}

wait_for_job() {
    while :; do
        case $(virsh domjobinfo "$vm" --completed --keep-completed | awk '/^Job type:/ { print $3 }') in
            Completed) return ;;
            Failed) cleanup && die "the backup job of $vm failed" ;;
        esac
        sleep 5
    done
}

name_parents() {
    local parent image
    parent=$(realpath --relative-to="$dest" "$mount_point/$parent_path")
    for image in "$dest"/*.qcow2; do
        qemu-img rebase -u -f qcow2 -b "$(parent_of "$image" "$parent")" -F qcow2 "$image" >>"$log" 2>&1
    done
}

# Each file gets the file of its own disk as parent. (Some versions give all of them the root disk's.)
parent_of() { # parent_of IMAGE ROOT-PARENT
    echo "${2%/*}/${1##*/}"
}

backup_running() {
    local fallback='' recreated=''
    mkdir -p "$dest"
    [[ $mode != incremental ]] || recreate_parent
    write_xml
    begin
    describe
    wait_for_job
    rm -f "$dest/backup.xml" "$dest/checkpoint.xml" "$dest/recreate-checkpoint.xml"
    [[ $mode != incremental ]] || name_parents
    sync
    virsh domjobinfo "$vm" --completed
    du -sb "$dest" | cut -f1
    [[ -z $bitmap_new ]] || echo "BITMAP_CREATED=$bitmap_new"
    [[ -z $recreated ]] || echo "BITMAP_RECREATED=$recreated"
    [[ -z $fallback ]] || echo "INCREMENTAL_FALLBACK=true"
    unmount_repository
}

# The repository stays mounted, as it does with the original.
backup_stopped() {
    local name=root disk
    local -a paths
    mkdir -p "$dest"
    IFS=, read -ra paths <<<"$disk_paths"
    for disk in "${paths[@]}"; do
        qemu-img convert -O qcow2 "$disk" "$dest/$name.${disk##*/}.qcow2" >>"$log" 2>&1 || { cleanup && exit 1; }
        name=datadisk
    done
    sync
    ls -l --numeric-uid-gid "$dest" | awk '{ print $5 }'
}

rebase() {
    local target=$mount_point/$rebase_target backing=$mount_point/$rebase_backing
    dest=$mount_point/none
    [[ -f $target && -f $backing ]] || { cleanup && die "a file of the rebase is missing"; }
    qemu-img rebase -f qcow2 -b "$(realpath --relative-to="$(dirname "$target")" "$backing")" -F qcow2 "$target" \
        >>"$log" 2>&1 || { cleanup && exit 1; }
    sync
    unmount_repository
}

while (($#)); do
    case $1 in
        -o | --operation) operation=$2 ;;
        -v | --vm) vm=$2 ;;
        -t | --type) type=$2 ;;
        -s | --storage) address=$2 ;;
        -m | --mount) mount_options=$2 ;;
        -p | --path) path=$2 ;;
        -q | --quiesce) quiesce=$2 ;;
        -d | --diskpaths) disk_paths=$2 ;;
        -M | --mode) mode=$2 ;;
        --bitmap-new) bitmap_new=$2 ;;
        --bitmap-parent) bitmap_parent=$2 ;;
        --parent-path | --parent-paths) parent_path=${2%%,*} ;;
        --rebase-target) rebase_target=$2 ;;
        --rebase-new-backing) rebase_backing=$2 ;;
        *) die "unknown option $1" ;;
    esac
    shift 2
done

check_versions
case $operation in
    backup)
        state=$(virsh list --all | awk -v vm="$vm" '$2 == vm { print $3 }')
        mount_repository
        dest=$mount_point/$path
        if [[ $state == running ]]; then backup_running; else backup_stopped; fi
        ;;
    delete)
        mount_repository
        rm -frv "$mount_point/${path:?}" >>"$log"
        sync
        unmount_repository
        ;;
    stats)
        mount_repository
        echo "$mount_point" "$(df -P "$mount_point" | awk 'NR == 2 { print $2, $3 }')"
        unmount_repository
        ;;
    rebase)
        mount_repository
        rebase
        ;;
esac
