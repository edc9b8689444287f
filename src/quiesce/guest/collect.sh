#!/bin/sh
# sh -s TOKEN < collect.sh: what a diagnosis wants to read of this guest, on standard output, in the
# form that docs/explanation/diagnosis.md states. It changes nothing, writes to no disk, starts no
# Python, opens no symbolic link that others could have put there, touches no remote mount, and ends
# within sixteen seconds whatever hangs. Without root it shows less. For dash, bash and busybox.
# A program costs 50 ms to start in an emulated guest, so it is done without where that can be.
# No here-documents: shells make temporary files of them, and the disk may be full. Everything is a
# function, so that nothing runs of a script that came only in part.

PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset CDPATH ENV LS_COLORS POSIXLY_CORRECT TZ

WORKER_SECONDS=14
RELAY_SECONDS=16
MOST_BYTES=4194304
TAIL=65536
SMALL=4096
UNITS="walinuxagent waagent qemu-guest-agent qemu-ga"
NL='
'

main() {
    token=$1
    case $token in
        *[!0-9a-f]* | "") echo "usage: sh -s TOKEN < collect.sh" >&2; exit 2 ;;
    esac
    exec 2>/dev/null
    # A command that hangs beyond any signal may keep the worker's pipe open. Ours is held by `head`
    # alone, which can be killed.
    work | without_secrets | head -c "$MOST_BYTES" &
    relay=$!
    ( sleep "$RELAY_SECONDS"; kill -KILL "$relay" ) >/dev/null &
    guard=$!
    wait "$relay"
    kill "$guard"
    exit 0
}

work() {
    me=$(exec sh -c 'echo "$PPID"')
    ( sleep "$WORKER_SECONDS"; kill -KILL "$me" ) >/dev/null &
    guard=$!
    limit='' verified=''
    timeout -s KILL 2 true && limit="timeout -s KILL"
    [ / -ef / ] && verified=yes
    read_mounts
    the_moment
    the_agents
    the_disks
    the_logs
    the_system
    the_network
    the_rest
    heading end "$(date +%s)"
    kill "$guard"
}

# Passwords in addresses, signatures of SAS URLs, and what the agent keeps sealed.
without_secrets() {
    sed -e 's#\(://[^/@: "]*\):[^/@ "]*@#\1:***@#g' \
        -e 's/\([?&;]sig=\)[^&"<> ]*/\1***/g' \
        -e 's/\(protectedSettings\(&quot;\)*"*:[ ]*\(&quot;\)*"*\)[A-Za-z0-9+/=][A-Za-z0-9+/=]*/\1***/g' \
        -e 's/\([Pp]assword[A-Za-z]*"*[=:>][ ]*"*\)[^"< ][^"< ]*/\1***/g'
}

# ---- how things are shown

heading() { printf '#%s %s\n' "$token" "$*"; }

missing() { heading missing "$1" "$2"; }
# limited SECONDS PROGRAM ARGUMENT…: where there is no `timeout`, the whole is bounded still.
limited() {
    seconds=$1
    shift
    ${limit:+$limit "$seconds"} "$@"
}

# shown NAME FUNCTION-OR-PROGRAM ARGUMENT…
shown() {
    name=$1
    shift
    output=$( { "$@" 2>&1 </dev/null; printf '\n%s' "$?"; } | tail -c "$TAIL")
    heading command "$name" "${output##*"$NL"}"
    printf '%s\n' "${output%"$NL"*}"
}

# brief NAME FUNCTION-OR-PROGRAM ARGUMENT…: the same for what prints little.
brief() {
    name=$1
    shift
    output=$("$@" 2>&1 </dev/null)
    heading command "$name" "$?"
    printf '%s\n' ${output:+"$output"} ""
}

# files BYTES PATH…: the last BYTES of each that is a file, and no symbolic link.
files() {
    most=$1
    shift
    wanted=$*
    set --
    for path in $wanted; do
        case $path in
            *[![:print:]]* | *\**) continue ;;
        esac
        if ! within_reach "$path"; then
            missing "$path" "it lies on a remote mount"
        elif [ -L "$path" ]; then
            missing "$path" "it is a symbolic link"
        elif [ -f "$path" ]; then
            set -- "$@" "$path"
        elif [ -e "$path" ]; then
            missing "$path" "it is not a file"
        else
            missing "$path" "No such file or directory"
        fi
    done
    [ $# -gt 0 ] || return
    abouts=$(stat -c '%s %a %u %Y %n' "$@")
    for path in "$@"; do
        about='- - - -'
        case $NL$abouts$NL in
            *" $path$NL"*)
                about=${abouts%%" $path$NL"*}
                about=${about%%" $path"}
                about=${about##*"$NL"}
                ;;
        esac
        file "$path" "$path" "$about"
    done
}

# file SHOWN-AS PATH ABOUT. Whoever swaps the path after the look above is found out after the
# opening.
file() {
    if {
        if [ -n "$verified" ] && { [ -L "$2" ] || ! [ "$2" -ef /proc/self/fd/3 ]; }; then
            missing "$1" "it was replaced while it was opened"
        else
            heading file "$3" "$1"
            case $2 in
                /proc/self/*) tail -c "$most" <&3 ;;
                /proc/*) copied <&3 ;;
                *) if [ "${3%% *}" -lt "$SMALL" ]; then copied <&3; else tail -c "$most" <&3; fi ;;
            esac
            echo
        fi
    } 3<"$2"; then :; else
        missing "$1" "Permission denied"
    fi
}

# What is small, without a program.
copied() {
    while IFS= read -r line; do
        printf '%s\n' "$line"
    done
    printf %s "$line"
}

# linked SHOWN-AS FOLDER…: for files that a distribution itself makes a link, into these folders.
linked() {
    path=$1
    shift
    if [ -L "$path" ]; then
        target=$(readlink -f "$path")
        for folder in "$@"; do
            case $target in "$folder"/*) ;; *) continue ;; esac
            within_reach "$target" && [ -f "$target" ] && most=$TAIL \
                && file "$path" "$target" "$(stat -c '%s %a %u %Y' "$target")"
            return
        done
    fi
    files "$TAIL" "$path"
}

# newest COUNT FOLDER PATTERN: adds to $found, newest first. A name cannot hold a slash, so whatever
# a hostile one makes of its line is sought in that folder and nowhere else.
newest() {
    case $2 in *[!A-Za-z0-9._/@+-]*) return ;; esac
    listable "$2" || return
    for name in $(limited 2 ls -t "$2" | grep "$3" | grep -v '[^A-Za-z0-9._@+-]' | head -n "$1"); do
        found="$found $2/$name"
    done
}

# ---- mounts: what must not be touched, and what `df` may be asked about

# Blanks in names are spelt \040 there.
read_mounts() {
    remote='' local='' count=0
    while read -r _ _ _ _ point rest; do
        type=${rest#* - }
        case ${type%% *} in
            nfs* | cifs* | smb* | fuse* | 9p* | ceph* | afs* | gluster* | autofs* | virtiofs* \
                | lustre* | gpfs* | beegfs* | ncp* | coda* | ocfs2* | gfs2*)
                case $point in *\\*) point=${point%%\\*}// ;; esac # all that begins like it
                remote="$remote $point"
                ;;
            ext[234] | xfs | btrfs | vfat | f2fs | jfs | reiserfs | zfs | bcachefs | nilfs2 | tmpfs \
                | overlay)
                case $point in *\\*) continue ;; esac
                [ $((count += 1)) -gt 60 ] || local="$local $point"
                ;;
        esac
    done < /proc/self/mountinfo
}

# Whether nothing on the way to the path is a remote mount. The root itself always counts as near.
within_reach() {
    for far in $remote; do
        case $far in
            /) ;;
            *//) case $1 in "${far%//}"*) return 1 ;; esac ;;
            *) case $1/ in "$far"/*) return 1 ;; esac ;;
        esac
    done
    return 0
}

# Whether this is a folder that can be listed: no link, not remote, and nothing remote in it, since
# `ls` looks at each entry.
listable() {
    within_reach "$1" || return 1
    for far in $remote; do
        case $far in "$1"/*) return 1 ;; esac
    done
    [ -d "$1" ] && [ ! -L "$1" ]
}

spaces() {
    set --
    for point in $local; do # some are hidden beneath others
        case " $* " in *" $point "*) continue ;; esac
        within_reach "$point" && [ -d "$point" ] && set -- "$@" "$point"
    done
    [ $# -gt 0 ] || set -- /
    limited 2 df "$flags" "$@"
    ended=$?
    # GNU's df prints nothing before it has asked all: one that is slow must not hide the root.
    [ "$ended" -lt 124 ] || { limited 2 df "$flags" /; ended=$?; }
    return "$ended"
}

# ---- what is collected, the most telling first

the_moment() {
    heading command date 0
    date +%s
    read -r before < /proc/stat
    sleep 0.5 || sleep 1
    read -r after < /proc/stat
    heading command cpu 0
    printf '%s\n%s\n' "$before" "$after"
}

the_system() {
    linked /etc/os-release /usr/lib
    files "$TAIL" /proc/loadavg /proc/meminfo /proc/uptime /proc/pressure/cpu /proc/pressure/io \
        /proc/pressure/memory
    files 262144 /proc/self/mountinfo
    brief uname uname -a
}

the_agents() {
    shown processes processes
    brief units limited 4 systemctl show --no-pager \
        -p Id,LoadState,ActiveState,SubState,UnitFileState \
        -p NRestarts,Result,ExecMainStatus,Environment $UNITS
    files "$TAIL" /etc/waagent.conf /etc/qemu/qemu-ga.conf /etc/default/qemu-guest-agent \
        /etc/sysconfig/qemu-ga /etc/environment
    found=
    for unit in $UNITS; do
        for folder in /etc/systemd/system /run/systemd/system /usr/lib/systemd/system \
            /lib/systemd/system; do
            [ -L /lib ] && [ "$folder" = /lib/systemd/system ] && continue
            newest 8 "$folder/$unit.service.d" '\.conf$'
            within_reach "$folder" && [ -f "$folder/$unit.service" ] \
                && [ ! -L "$folder/$unit.service" ] && found="$found $folder/$unit.service"
        done
    done
    files "$TAIL" $found
    brief python pythons
    brief access access
    brief programs programs
}

the_disks() {
    df -Pkl / >/dev/null && flags=-Pkl || flags=-Pk
    brief space spaces
    flags=-Pi
    brief inodes spaces
}

the_logs() {
    files 262144 /var/log/waagent.log
    shown journal journal
    shown quiesce of_ours
    shown extension extension_files
    extension_folders
    found=
    newest 3 /var/log/quiesce '\.log'
    for folder in $folders; do
        newest 3 "$folder/status" '\.status$'
        newest 2 "$folder/config" '^HandlerState$'
        found="$found $folder/HandlerEnvironment.json $folder/HandlerManifest.json"
    done
    for folder in /run/quiesce/*; do
        newest 1 "$folder" '^state\.json$'
    done
    newest 8 /etc/quiesce '\.\(conf\|json\|toml\|cfg\|ini\)$'
    files "$TAIL" $found /etc/azure/vmbackup.conf /etc/azure/VMSnapshotScriptPluginConfig.json
}

the_network() {
    brief addresses limited 2 ip -o address
    brief routes routes
    linked /etc/resolv.conf /run/systemd/resolve /run/NetworkManager /run/resolvconf /run/connman
    found=
    for folder in /var/lib/dhcp /var/lib/dhclient /var/lib/NetworkManager /run/systemd/netif/leases; do
        newest 4 "$folder" 'lease\|^[0-9][0-9]*$'
    done
    files "$TAIL" $found
}

the_rest() {
    found=
    newest 12 /var/lib/waagent '\.xml$'
    set --
    for path in $found; do
        case $path in */Certificates.xml | */ovf-env.xml) ;; *) set -- "$@" "$path" ;; esac
    done
    files "$TAIL" "$@"
    brief certificate certificate
    brief freezers freezers
    found='' count=0
    within_reach /var/log/azure && for folder in /var/log/azure/*; do
        [ $((count += 1)) -gt 40 ] && break
        newest 2 "$folder" '\.log$'
    done
    set -- $found
    [ $# -gt 24 ] && shift $(($# - 24))
    files "$TAIL" "$@"
}

# ---- commands of our own making

# Without what qemu-ga says of each call: it would be all there is.
journal() {
    command -v journalctl >/dev/null || { echo "journalctl: not found"; return 127; }
    lines=$(limited 4 journalctl --no-pager -q -o short-iso --since=-1h -n 3000 \
        -u walinuxagent -u waagent -u qemu-guest-agent -u qemu-ga)
    ended=$?
    printf '%s\n' "$lines" | grep -v 'qemu-ga\[[0-9]*\]: info: guest-' | tail -n 600
    return "$ended"
}

processes() {
    limited 2 ps -ww -eo pid,ppid,stat,etimes,pcpu,rss,args 2>/dev/null || from_proc
}

# The same for guests whose `ps` is none, or another: what would need arithmetic is 0.
from_proc() {
    echo "PID PPID STAT ELAPSED %CPU RSS COMMAND"
    for folder in /proc/[0-9]*; do
        read -r line < "$folder/stat" || continue
        set -- ${line##*) }
        name=${line#*(}
        shown_as=$(tr '\0' ' ' < "$folder/cmdline" | head -c 300)
        echo "${folder#/proc/} $2 $1 0 0.0 0 ${shown_as:-[${name%)*}]}"
    done
}

routes() {
    if command -v ip >/dev/null; then
        limited 2 ip -6 route
        limited 2 ip route
    else
        cat /proc/net/route
    fi
}

# PATH VERSION, told from names alone.
pythons() {
    for path in /usr/bin/python3 /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9] \
        /usr/bin/python /usr/bin/python2 /usr/libexec/platform-python /usr/local/bin/python3 \
        /usr/local/bin/python3.[0-9][0-9]; do
        within_reach "$path" && [ -x "$path" ] || continue
        target=$(readlink -f "$path")
        echo "$path ${target##*python}"
    done
}

# Who asks, and what he can tell of these folders: that a file is not there is known of those alone
# that he may list, or that are not there themselves.
access() {
    while read -r field user _; do
        [ "$field" != Uid: ] || break
    done < /proc/self/status
    echo "uid $user"
    for folder in /var/lib/waagent /var/lib/quiesce /run/quiesce; do
        if listable "$folder" && [ -r "$folder" ] && [ -x "$folder" ]; then
            echo "listed $folder"
        elif is_absent "$folder"; then
            echo "absent $folder"
        else
            echo "refused $folder"
        fi
    done
}

# By the names in the folder above it: a confined agent may be refused the very look.
is_absent() {
    within_reach "$1" && [ -r "${1%/*}" ] && [ -x "${1%/*}" ] || return 1
    for near in "${1%?}"*; do
        [ "$near" != "$1" ] || return 1
    done
}

# Where the agents lie: without systemd nothing else tells whether they are installed.
programs() {
    for path in /usr/sbin/waagent /usr/bin/waagent /usr/local/sbin/waagent /usr/local/bin/waagent \
        /usr/share/oem/bin/waagent /etc/init.d/waagent /etc/init.d/walinuxagent \
        /usr/sbin/qemu-ga /usr/bin/qemu-ga /usr/local/bin/qemu-ga /etc/init.d/qemu-ga \
        /etc/init.d/qemu-guest-agent; do
        within_reach "$path" && [ -e "$path" ] && echo "$path"
    done
    command -v waagent
    command -v qemu-ga
    return 0
}

# Folders of the extension as the Azure Linux agent lays them down, into $folders.
extension_folders() {
    folders=
    within_reach /var/lib/waagent || return
    for folder in /var/lib/waagent/Quiesce.VmBackup-*; do
        case $folder in *[!A-Za-z0-9._/+-]*) continue ;; esac
        listable "$folder" && folders="$folders $folder"
    done
}

extension_files() {
    extension_folders
    for folder in $folders; do
        set --
        limited 2 ls -lan "$folder" "$folder/status" "$folder/config"
        for path in "$folder"/*.py "$folder"/*.sh "$folder"/*.json; do
            case $path in */HandlerEnvironment.json | *\**) continue ;; esac
            [ -f "$path" ] && [ ! -L "$path" ] && set -- "$@" "$path"
        done
        [ $# -eq 0 ] || limited 4 cksum "$@"
    done
    [ -n "$folders" ]
}

of_ours() {
    for folder in /run/quiesce /var/lib/quiesce /etc/quiesce; do
        listable "$folder" || continue
        limited 2 ls -lan "$folder"
    done
    listable /var/lib/quiesce && for path in /var/lib/quiesce/quiesce-extension-*.zip; do
        [ -f "$path" ] && [ ! -L "$path" ] && cksum "$path"
    done
    return 0
}

certificate() {
    path=/var/lib/waagent/TransportCert.pem
    folder=${path%/*}
    within_reach "$path" || { echo "$folder: it lies on a remote mount"; return 126; }
    is_absent "$folder" || { [ -r "$folder" ] && [ -x "$folder" ]; } \
        || { echo "$folder: Permission denied"; return 126; }
    [ -f "$path" ] || { echo "$path: No such file or directory"; return 1; }
    command -v openssl >/dev/null || { echo "openssl: not found"; return 127; }
    limited 2 openssl x509 -in "$path" -noout -startdate -enddate -fingerprint
}

# Other products that freeze this guest, or snapshot it: NAME PATH.
freezers() {
    for one in veeam:/usr/sbin/veeamservice veeam:/opt/veeam \
        azure-backup:/etc/azure/workloadbackup commvault:/opt/commvault commvault:/opt/simpana \
        netbackup:/usr/openv rubrik:/etc/rubrik cohesity:/opt/cohesity networker:/nsr \
        tsm:/opt/tivoli/tsm data-protector:/opt/omni acronis:/usr/lib/Acronis \
        bacula:/etc/bacula/bacula-fd.conf bareos:/etc/bareos druva:/opt/Druva \
        avamar:/usr/local/avamar nakivo:/opt/nakivo; do
        path=${one#*:}
        within_reach "$path" && [ -e "$path" ] && echo "${one%%:*} $path"
    done
    listable /var/lib/waagent && for path in /var/lib/waagent/*.VMSnapshotLinux-*; do
        [ -d "$path" ] && echo "azure-backup $path"
    done
    return 0
}

main "$@" </dev/null
exit
