# What mend.sh is made of: services, processes and files. It is sent before mend.sh, as one script
# with it; see there.

# ---- services

systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

property() { systemctl show -p "$1" "$unit" 2>/dev/null | sed -n "s/^$1=//p"; }

# find_unit waagent|qga: into $unit, by the name that this distribution gives it. Empty: not there.
find_unit() {
    case $1 in
        waagent) names="walinuxagent waagent" title="The Azure Linux agent" ;;
        qga) names="qemu-guest-agent qemu-ga" title="The QEMU guest agent" ;;
    esac
    for name in $names; do
        if systemd; then
            unit=$name.service
            case $(property LoadState) in
                not-found | "") ;;
                *) return ;;
            esac
        else
            unit=$name
            [ -x "/etc/init.d/$name" ] && return
        fi
    done
    unit=
}

require_unit() {
    find_unit "$1"
    [ -n "$unit" ] || fail "$title is not installed: there is no service ${names% *} or ${names#* }."
}

# limited SECONDS COMMAND…
limited() {
    seconds=$1
    shift
    ${limit:+$limit "$seconds"} "$@"
}

restart() {
    disabled='' killed=''
    require_unit "$1"
    if systemd; then
        permit
    fi
    pids=$(processes "$1")
    if started_by "$pids"; then
        restart_later
    elif systemd; then
        restart_now "$1"
    else
        for pid in $pids; do kill -CONT "$pid"; done
        service_ restart || fail "$unit could not be restarted: $why"
        say "$unit was restarted."
    fi
}

# Only an operator who says so may undo what an operator has done.
permit() {
    if [ "$(property LoadState)" = masked ]; then
        [ "$word" = unmask ] || fail "$unit is masked: somebody forbade to start it."
        systemctl unmask "$unit" >/dev/null 2>&1
        systemctl unmask --runtime "$unit" >/dev/null 2>&1
        systemctl daemon-reload
        [ "$(property LoadState)" = masked ] && fail "$unit is masked and could not be unmasked."
        say "$unit was unmasked."
    fi
    if [ "$(property UnitFileState)" = disabled ]; then
        if [ "$word" = unmask ]; then
            systemctl enable "$unit" >/dev/null 2>&1 || fail "$unit could not be enabled."
            say "$unit was enabled."
        elif [ "$(property ActiveState)" = inactive ]; then
            fail "$unit is disabled and stopped: somebody does not want it to run."
        else
            disabled=" It is disabled, and will not be started at the next boot."
        fi
    fi
}

restart_now() {
    for pid in $pids; do kill -CONT "$pid" 2>/dev/null; done
    systemctl reset-failed "$unit" 2>/dev/null
    if ! why=$(limited "$STOP_SECONDS" systemctl restart "$unit" 2>&1); then
        for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
        why=$(limited "$STOP_SECONDS" systemctl start "$unit" 2>&1) \
            || fail "$unit could not be started: ${why:-it took more than $STOP_SECONDS s}"
        killed=" Its former process had to be killed."
    fi
    sleep 2 # whoever ends at once has ended by then
    state=$(property ActiveState)
    [ "$state:$(property ConditionResult)" = inactive:no ] \
        && fail "$unit was not started: a condition in its unit does not hold."
    [ "$state" = active ] || fail "$unit was started and is $state:" \
        "$(property Result), status $(property ExecMainStatus)."
    verb=started
    [ -n "$pids" ] && verb=restarted
    say "$unit was $verb.$killed$disabled"
}

restart_later() {
    if systemd; then
        order="systemctl --no-block restart $unit"
    else
        order="service $unit restart"
    fi
    detached=
    command -v setsid >/dev/null && detached=setsid
    $detached sh -c "sleep $LATER_SECONDS; $order" </dev/null >/dev/null 2>&1 &
    say "$unit will be restarted in $LATER_SECONDS seconds.$disabled"
}

service_() {
    if command -v rc-service >/dev/null; then
        why=$(limited 60 rc-service "$unit" "$1" 2>&1)
    elif command -v service >/dev/null; then
        why=$(limited 60 service "$unit" "$1" 2>&1)
    else
        why=$(limited 60 "/etc/init.d/$unit" "$1" 2>&1)
    fi
}

# ---- processes

# processes waagent|qga|extension: process ids of root's.
processes() {
    for folder in /proc/[0-9]*; do
        [ -O "$folder" ] || continue
        pid=${folder#/proc/}
        if [ "$1" = qga ]; then
            read -r comm 2>/dev/null < "$folder/comm" || continue
            [ "$comm" = qemu-ga ] && echo "$pid"
        elif grep -q -e waagent -e WALinuxAgent -e Quiesce.VmBackup -e quiesce-extension \
            "$folder/cmdline" 2>/dev/null; then
            case $1:$(program_of "$folder") in
                waagent:*/waagent | waagent:*WALinuxAgent-*.egg) echo "$pid" ;;
                extension:/*Quiesce.VmBackup-* | extension:/*quiesce-extension-*) echo "$pid" ;;
            esac
        fi
    done
}

# The program of a process, or the script that its interpreter runs: who has it as another argument
# is an editor, or an archiver.
program_of() {
    tr '\0' '\n' 2>/dev/null < "$1/cmdline" | {
        read -r program
        case ${program##*/} in
            *python* | *sh)
                while read -r program; do
                    case $program in -*) ;; *) break ;; esac
                done
                ;;
        esac
        printf '%s\n' "${program%% *}"
    }
}

# Whether one of these processes has started this one.
started_by() {
    for pid in $(ancestors); do
        case " $(echo $1) " in *" $pid "*) return 0 ;; esac
    done
    return 1
}

ancestors() {
    pid=$$
    while [ "${pid:-0}" -gt 1 ]; do
        echo "$pid"
        read -r line 2>/dev/null < "/proc/$pid/stat" || return
        set -- ${line##*) }
        pid=$2
    done
}

# ---- files

# replace FILE SED-ARGUMENT…: whether that changes it. Owner and mode stay, and so does a link to it.
replace() {
    file=$(readlink -f "$1") || fail "$1 cannot be found."
    shift
    new=$file.quiesce-new
    rm -f "$new"
    why=$(cp -p "$file" "$new" 2>&1) || fail_without "$new"
    why=$( { sed "$@" "$file" > "$new"; } 2>&1) || fail_without "$new"
    if cmp -s "$file" "$new"; then
        rm -f "$new"
        return 1
    fi
    why=$(cp -p "$file" "$file$BACKUP" 2>&1) || fail_without "$new"
    why=$(mv -f "$new" "$file" 2>&1) || fail_without "$new"
}

# put FILE TEXT: whether that changes it.
put() {
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ] && return 1
    why=$(mkdir -p "${1%/*}" 2>&1) || fail "${1%/*} cannot be made: $why"
    new=$1.quiesce-new
    rm -f "$new"
    why=$( { printf '%s\n' "$2" > "$new"; } 2>&1) || fail_without "$new"
    why=$(mv -f "$new" "$1" 2>&1) || fail_without "$new"
}

fail_without() {
    rm -f "$1"
    fail "${1%.quiesce-new} could not be replaced: $why"
}

