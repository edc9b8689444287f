#!/bin/sh
# The Azure Linux agent calls this. It finds a Python that can run the extension; in a guest without
# one it says so itself, in the status file that the server reads, and ends with 52, the handler
# contract's "missing dependency".
here=$(cd "$(dirname "$0")" && pwd) || exit 1

for python in python3 /usr/bin/python3 /usr/libexec/platform-python /usr/local/bin/python3 python; do
    if "$python" -E -S -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null; then
        exec "$python" -I "$here" handler "$@"
    fi
done

sentence="The backup extension needs Python 3.6 or newer, and this guest has none."
remedy="Install the distribution's python3 package, 3.6 or newer."
echo "$sentence $remedy [extension.runtime-missing]" >&2

sequence=${ConfigSequenceNumber:-0}
case $sequence in *[!0-9]*) sequence=0 ;; esac
settings=$here/config/$sequence.settings

field() {  # of the settings, which are JSON: only names that need no escaping are taken
    sed -n 's/.*"'"$1"'": *"\([A-Za-z0-9-]*\)".*/\1/p' "$settings" 2>/dev/null | head -n 1
}

if [ "$1" = enable ] && [ -d "$here/status" ]; then
    failure="{\\\"code\\\": \\\"extension.runtime-missing\\\", \\\"message\\\": \\\"$sentence\\\", \\\"evidence\\\": [], \\\"remedy\\\": \\\"$remedy\\\", \\\"retryable\\\": false}"
    report="{\\\"attempt\\\": \\\"$(field attempt)\\\", \\\"task\\\": \\\"$(field task)\\\", \\\"command\\\": \\\"$(field command)\\\", \\\"version\\\": \\\"\\\", \\\"stage\\\": \\\"failed\\\", \\\"taken_at\\\": null, \\\"session\\\": null, \\\"hops\\\": [], \\\"failure\\\": $failure}"
    now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    status=$here/status/$sequence.status
    printf '%s\n' "[{\"version\": 1.0, \"timestampUTC\": \"$now\", \"status\": {\"name\": \"Quiesce.VmBackup\", \"operation\": \"enable\", \"status\": \"error\", \"code\": 52, \"formattedMessage\": {\"lang\": \"en-US\", \"message\": \"$sentence [extension.runtime-missing]\"}, \"substatus\": [{\"name\": \"quiesce\", \"status\": \"error\", \"code\": 52, \"formattedMessage\": {\"lang\": \"en-US\", \"message\": \"$report\"}}]}}]" > "$status.new" && mv "$status.new" "$status"
fi
exit 52
