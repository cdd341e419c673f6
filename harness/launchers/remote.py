"""What runs on a host beside a command: a few lines of POSIX sh that end the command when nobody wants it.

sshd itself ends nothing: without a terminal, a command whose connection is gone just goes on. Nor does Ray
end what an actor has left behind. Hosts need head, dd, wc, timeout and setsid (coreutils and util-linux, or
BusyBox), and a shell that quotes as POSIX says.
"""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Mapping, Sequence

LEASE_S = 30.0
"""How long a started command goes on after the last beat of a control node that is out of reach."""
BEAT_S = 10.0
BEAT = b"."
_RUN_GRACE_S = 10.0
_BIGGEST_STATUS = 128
"""A shell says 128 and the signal's number of a command that a signal has ended."""

# Arguments: seconds between beats, bytes of stdin, command. It has a session of its own, so that all of its
# process group can be killed and this shell, whose group is its own, be left to tell how it ended. One
# process feeds it its stdin and then watches ours: its end, or silence, ends the command. The child's own id
# is killed before its group: it may not have come to setsid(1) yet.
_WATCHED = """\
lease=$1 bytes=$2 child= lost=
shift 2
end() { kill -s KILL -- "$child" "-$child"; } 2>/dev/null
trap 'lost=1; [ -z "$child" ] || end' TERM HUP
exec 3<&0 </dev/null
{
  timeout "$lease" head -c "$bytes" <&3
  case $? in 124 | 143) kill -s TERM 0 ;; esac
  {
    while [ "$(timeout "$lease" dd bs=65536 count=1 <&3 | wc -c)" -gt 0 ]; do :; done
    kill -s TERM 0
  } >/dev/null &
} 2>/dev/null | setsid "$@" 3<&- &
child=$!
exec 3<&-
[ -z "$lost" ] || end
wait "$child" 2>/dev/null
status=$?
kill -s KILL -- "-$child" 2>/dev/null
exit "$status"
"""
_OUTPUTS_APART = 'exec "$@"'
_OUTPUTS_TOGETHER = 'exec "$@" 2>&1'

# Arguments: seconds, bytes, draft, destination. Whoever ends in the middle is known by what is missing; a
# signal to end comes with the end of stdin, and leaves time to clear up.
_PUT = """\
trap : TERM
if [ -d "$4" ]; then echo "is a directory" >&2; exit 1; fi
timeout "$1" cat >"$3" && [ "$(wc -c <"$3")" -eq "$2" ] && mv -f -- "$3" "$4" && exit 0
rm -f -- "$3"
exit 1
"""


def run_line(argv: Sequence[str], stdin_bytes: int, timeout_s: float) -> str:
    """For a shell: run a command that is over after ``timeout_s``, even if nobody is there to end it."""
    lease_s = math.ceil(timeout_s + _RUN_GRACE_S)
    return _line(_WATCHED, str(lease_s), str(stdin_bytes), "sh", "-c", _OUTPUTS_APART, "sh", *argv)


def start_line(argv: Sequence[str], stdin_bytes: int, environment: Mapping[str, str]) -> str:
    """For a shell: run a command as long as its stdin is open and `BEAT` arrives there every `BEAT_S`."""
    with_environment = ["env", *(f"{name}={value}" for name, value in environment.items()), *argv]
    command = ("sh", "-c", _OUTPUTS_TOGETHER, "sh", *(with_environment if environment else argv))
    return _line(_WATCHED, f"{LEASE_S:g}", str(stdin_bytes), *command)


def put_line(size_bytes: int, draft: str, destination: str, timeout_s: float) -> str:
    """For a shell: write stdin to ``draft`` and, if all of it has come in time, move that into place."""
    return _line(_PUT, str(math.ceil(timeout_s)), str(size_bytes), draft, destination)


def command_status(of_shell: int) -> int:
    """The command's status, negative for a signal, from that of the shell beside it."""
    number = of_shell - _BIGGEST_STATUS
    return -number if number in signal.valid_signals() else of_shell


def _line(script: str, *arguments: str) -> str:
    # exec: no login shell stays in between, which would be in the way of signals.
    return f"exec {shlex.join(['sh', '-c', script, 'sh', *arguments])}"
