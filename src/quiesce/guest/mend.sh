#!/bin/sh
# cat services.sh mend.sh | sh -s ACTION [WORD]: mends one thing in this guest, says in one sentence
# what it did or found done already, and ends with 0; else with the reason on standard error and 1.
# All of it can be done twice without harm. For dash, bash and busybox; systemd, OpenRC or System V.
#
#   restart-waagent, restart-qga            start, or restart, a stopped or hung agent; with the word
#                                           "unmask" also one that is masked, or disabled and stopped
#   auto-restart-waagent, auto-restart-qga  have systemd start it again whenever it ends
#   enable-extensions                       Extensions.Enabled=y for the Azure Linux agent
#   allow-qga                               unblock what a backup needs of the QEMU guest agent
#   exempt-host ADDRESS                     NO_PROXY for that address, for the Azure Linux agent
#   end-extension                           end the backup extension's sessions, then its processes
#   verbose-on, verbose-off                 what both agents write to their logs
#
# An agent that this very script was started by is restarted two seconds later, so that it can still
# say what we said. Files are replaced as a whole; the former one stays as FILE.quiesce-backup.

PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
unset CDPATH ENV
umask 022

CONF=/etc/waagent.conf
BACKUP=.quiesce-backup
LATER_SECONDS=2
STOP_SECONDS=15
SESSION_SECONDS=60
NL='
'
NEEDED="guest-ping guest-info guest-sync guest-sync-delimited guest-get-osinfo guest-get-fsinfo
guest-set-time guest-exec guest-exec-status guest-file-open guest-file-close guest-file-read
guest-file-write guest-file-seek guest-file-flush guest-fsfreeze-status guest-fsfreeze-freeze
guest-fsfreeze-thaw"

main() {
    word=$2
    [ "$(id -u)" = 0 ] || fail "Mending needs root."
    limit=
    timeout -s KILL 9 true 2>/dev/null && limit="timeout -s KILL"
    case $word in
        *[!A-Za-z0-9.:_-]*) fail "The word is not understood." ;;
    esac
    case $1 in
        restart-waagent) restart waagent ;;
        restart-qga) restart qga ;;
        auto-restart-waagent) auto_restart waagent ;;
        auto-restart-qga) auto_restart qga ;;
        enable-extensions) enable_extensions ;;
        allow-qga) allow_qga ;;
        exempt-host) exempt_host ;;
        end-extension) end_extension ;;
        verbose-on | verbose-off) verbose "${1#verbose-}" ;;
        *) fail "There is no such action." ;;
    esac
    printf '%s\n' "$said"
}

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

say() { said=${said:+$said }$*; }

# ---- actions

auto_restart() {
    require_unit "$1"
    systemd || fail "This guest has no systemd that could restart $unit."
    drop_in=/etc/systemd/system/$unit.d/90-quiesce-restart.conf
    if put "$drop_in" "# Quiesce: whenever the agent ends, it is started again.
[Unit]
StartLimitIntervalSec=300
StartLimitBurst=20
[Service]
Restart=always
RestartSec=5"; then
        systemctl daemon-reload || fail "systemd did not read $drop_in."
        say "$unit is restarted from now on whenever it ends ($drop_in)."
    else
        say "$unit was set already to be restarted whenever it ends ($drop_in)."
    fi
}

require_conf() {
    [ -f "$CONF" ] || fail "There is no $CONF: the Azure Linux agent is not installed."
}

enable_extensions() {
    require_conf
    if replace "$CONF" 's/^[[:space:]]*Extensions\.Enabled[[:space:]]*=.*/Extensions.Enabled=y/'; then
        say "Extensions.Enabled=y was set in $CONF."
        restart waagent
    else
        say "Extensions were enabled already in $CONF."
    fi
}

allow_qga() {
    require_unit qga
    set --
    for name in $NEEDED; do
        in_list="[=, \"']$name"
        set -- "$@" \
            -e "/allow-rpcs/{/$in_list[, \"']/!{/$in_list\$/!s/\(allow-rpcs *= *[^ \"']*\)/\1,$name/;};}" \
            -e "/allow-rpcs/!s/\([=, \"']\)$name\([, \"']\)/\1\2/g" \
            -e "/allow-rpcs/!s/\([=, \"']\)$name\$/\1/"
    done
    # Only lines that name what is blocked: everything else leaves by `b`.
    lists='\(black-*list\|block-rpcs\|allow-rpcs\|BLACKLIST_RPC\|BLOCK_RPCS\|FILTER_RPC_ARGS\|-b \)'
    changed=
    for file in /etc/qemu/qemu-ga.conf /etc/sysconfig/qemu-ga /etc/default/qemu-guest-agent \
        "/etc/systemd/system/$unit" "/etc/systemd/system/$unit.d"/*.conf; do
        [ -f "$file" ] || continue
        replace "$file" -e "/^[[:space:]]*#/b" -e "/$lists/!b" "$@" -e 's/,,*/,/g' \
            -e "s/\([=\"' ]\),/\1/g" -e "s/,\([\"' ]\)/\1/g" -e 's/,$//' \
            -e "s/[ ]*-b *\([\"']\)/\1/" -e 's/[ ]*-b *$//' \
            -e '/^[[:space:]]*\(blacklist\|block-rpcs\)[[:space:]]*=[[:space:]]*$/d' \
            && changed="$changed $file"
    done
    if [ -n "$changed" ]; then
        systemd && systemctl daemon-reload
        say "What a backup needs was unblocked in$changed."
        restart qga
    else
        say "Nothing that a backup needs is blocked in the QEMU guest agent's configuration."
    fi
}

exempt_host() {
    case $word in
        *[!0-9a-fA-F.:]* | "" | [!0-9a-fA-F:]*) fail "The host's address must be an IP address." ;;
        *.*.*.* | *:*:*) ;;
        *) fail "The host's address must be an IP address." ;;
    esac
    require_unit waagent
    systemd || fail "This guest has no systemd by which $unit could be told NO_PROXY."
    drop_in=/etc/systemd/system/$unit.d/90-quiesce-no-proxy.conf
    former=$(no_proxy)
    case ,$former, in
        *,"$word",*) list=$former ;;
        *) list=${former:+$former,}$word ;;
    esac
    case $list in
        *[!A-Za-z0-9.:,_/*-]*) fail "NO_PROXY of $unit holds what cannot be written: look at it." ;;
    esac
    if put "$drop_in" "# Quiesce: the host is never asked through a proxy.
[Service]
Environment=\"NO_PROXY=$list\" \"no_proxy=$list\""; then
        systemctl daemon-reload || fail "systemd did not read $drop_in."
        say "$word is exempt from the proxy of $unit ($drop_in)."
        restart waagent
    else
        say "$word was exempt already from the proxy of $unit ($drop_in)."
        case ,$former, in *,"$word",*) ;; *) restart waagent ;; esac
    fi
}

# What the agent has now, from wherever it has it; else what systemd would give it.
no_proxy() {
    pid=$(property MainPID)
    found=
    [ "${pid:-0}" -gt 0 ] && found=$(tr '\0' '\n' 2>/dev/null < "/proc/$pid/environ")
    [ -n "$found" ] || found=$(property Environment | tr ' ' '\n' | tr -d '"')
    printf '%s\n' "$found" | sed -n 's/^[Nn][Oo]_[Pp][Rr][Oo][Xx][Yy]=//p' | tail -n 1 | tr -d ' '
}

verbose() {
    any=
    # Of a package that was removed its configuration stays.
    find_unit waagent
    if [ -f "$CONF" ] && { [ -n "$unit" ] || { [ "$1" = off ] && marked; }; }; then
        any=yes
        part verbose_waagent "$1"
    fi
    find_unit qga
    if [ -n "$unit" ] && systemd; then
        any=yes
        part verbose_qga "$1"
    fi
    [ -n "$any" ] || fail "No agent is installed whose log could be made more verbose."
    [ -z "$failed" ] || exit 1
}

# part COMMAND ARGUMENT: what it fails with does not keep the next from being done.
part() {
    if done=$(said=; "$@"; printf '%s' "$said"); then
        say "$done"
    else
        failed=yes
    fi
}

MARK='# quiesce-former: '

marked() { grep -q "^$MARK" "$CONF"; }

# Started by whoever stopped it, it is as verbose as the file says then.
restart_if_running() {
    find_unit "$1"
    [ -n "$unit" ] || return 0
    if systemd; then
        [ "$(property ActiveState)" = active ] || return 0
    else
        [ -n "$(processes "$1")" ] || return 0
    fi
    restart "$1"
}

# The former value waits in the file itself, so that both change at once.
verbose_waagent() {
    line='[[:space:]]*Logs\.Verbose[[:space:]]*=.*'
    if [ "$1" = off ]; then
        marked || { say "$CONF was not made verbose by Quiesce."; return; }
        replace "$CONF" -e "/^$line/d" -e "/^${MARK}nothing\$/d" -e "s/^$MARK//"
        say "$CONF says of Logs.Verbose what it said before."
    else
        ! marked || { say "$CONF was made verbose already."; return; }
        if grep -q "^$line" "$CONF"; then
            replace "$CONF" -e "s/^\($line\)/$MARK\1\\${NL}Logs.Verbose=y/"
        else
            replace "$CONF" -e "\$a\\$NL${MARK}nothing\\${NL}Logs.Verbose=y"
        fi
        say "Logs.Verbose=y was set in $CONF."
    fi
    restart_if_running waagent
}

verbose_qga() {
    drop_in=/etc/systemd/system/$unit.d/90-quiesce-verbose.conf
    if [ "$1" = off ]; then
        [ -f "$drop_in" ] || { say "$unit was not made verbose by Quiesce."; return; }
        rm -f "$drop_in"
        systemctl daemon-reload
        say "$unit is no longer verbose."
        restart_if_running qga
        return
    fi
    [ -f "$drop_in" ] && { say "$unit was made verbose already."; return; }
    fragment=$(property FragmentPath)
    start=$(sed -n 's/^ExecStart=\(.\)/\1/p' "$fragment" "/etc/systemd/system/$unit.d"/*.conf 2>/dev/null \
        | tail -n 1)
    case $start in
        *qemu-ga*[\\]) fail "ExecStart of $unit in $fragment is more than one line." ;;
        *qemu-ga*) ;;
        *) fail "No ExecStart is found in $fragment of $unit." ;;
    esac
    put "$drop_in" "# Quiesce: until the logs are collected.
[Service]
ExecStart=
ExecStart=$start -v"
    systemctl daemon-reload
    say "$unit is verbose from now on ($drop_in)."
    restart_if_running qga
}

end_extension() {
    count=0
    for folder in /run/quiesce/*/; do
        folder=${folder%/}
        [ -d "$folder" ] && [ ! -L "$folder" ] && [ -p "$folder/control" ] || continue
        end_session "$folder"
        count=$((count + 1))
    done
    mine=" $(echo $(ancestors)) "
    killed=0
    for pass in TERM KILL; do
        for pid in $(processes extension); do
            case $mine in *" $pid "*) continue ;; esac
            kill -CONT "$pid" 2>/dev/null
            kill -"$pass" "$pid" 2>/dev/null && [ "$pass" = TERM ] && killed=$((killed + 1))
        done
        [ "$pass:$killed" = TERM:0 ] && break
        sleep 1
    done
    say "The backup extension: sessions ended: $count, processes killed: $killed."
}

# By the session itself; then by the extension's own `recover`, which thaws whatever is frozen. What
# is still frozen after that is not killed: its watchdog thaws it.
end_session() {
    for pid in $(processes extension); do kill -CONT "$pid" 2>/dev/null; done
    ended "$1" || { printf 'abort\n' 1<> "$1/control"; } 2>/dev/null
    waited=0
    until ended "$1"; do
        if [ "$waited" -eq 10 ]; then
            recover "${1##*/}"
        elif [ "$waited" -ge "$SESSION_SECONDS" ]; then
            fail "The session ${1##*/} does not end: it is $(state_of "$1"); its watchdog thaws it."
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

state_of() { sed -n 's/^.*"state": *"\([a-z]*\)".*$/\1/p' "$1/state.json" 2>/dev/null | head -n 1; }

ended() {
    [ -p "$1/control" ] || return 0
    case $(state_of "$1") in
        done | failed) return 0 ;;
    esac
    return 1
}

recover() {
    for program in /var/lib/waagent/Quiesce.VmBackup-*/ /var/lib/quiesce/quiesce-extension-*.zip; do
        [ -e "${program%/}" ] || continue
        for python in python3 /usr/libexec/platform-python python; do
            command -v "$python" >/dev/null || continue
            limited 30 "$python" -I -B "${program%/}" recover --task "$1" </dev/null >/dev/null 2>&1
            return
        done
    done
}

said='' disabled='' killed='' unit='' failed=''
main "$1" "$2" </dev/null
exit
