"""What runs on a host beside a command: a few lines of POSIX sh that end the command when nobody wants it.

sshd itself ends nothing: without a terminal, a command whose connection is gone just goes on. Nor does Ray
end what an actor has left behind, nor Slurm when it is out of touch. Hosts need head, grep, wc, timeout and
setsid (coreutils, grep and util-linux, or BusyBox), and a shell that quotes as POSIX says.
"""

from __future__ import annotations

import math
import secrets
import shlex
import signal
from collections.abc import Mapping, Sequence

LEASE_S = 30.0
"""How long a started command goes on after the last beat of a control node that is out of reach."""
BEAT_S = 10.0
BEAT = b".\n"
_RUN_GRACE_S = 10.0
_BIGGEST_STATUS = 128
"""A shell says 128 and the signal's number of a command that a signal has ended."""

# Arguments: seconds between beats, bytes of stdin, a word or '', command. The command has a session of its
# own, so that all of its process group can be killed and these shells, whose group is their own, be left to
# tell how it ended.
# On the left: what feeds it its stdin and then watches ours, whose end, or silence, ends the command.
# On the right: what waits for the command. The child's own id is killed before its group: it may not have
# come to setsid(1) yet. Then the left is ended: Slurm waits seconds for what is left of a step. A shell that
# is just forked loses a signal that its parent traps: so that is trapped here later, and the left says who it
# is once it is ready for one.
# With a word, that and the status are the last on stderr, unless somebody else has ended the command.
_WATCHED = """\
lease=$1 bytes=$2 word=$3
shift 3
exec 3<&0 </dev/null
{
  trap 'kill -s KILL -- "$!" "-$!"; wait "$!"; exit' TERM HUP
  sh -c 'echo "$PPID"'
  timeout "$lease" head -c "$bytes" <&3 &
  wait "$!"
  case $? in 124 | 143) kill -s TERM 0 ;; esac
  exec >/dev/null
  while timeout "$lease" grep -q . <&3 & wait "$!"; do :; done
  kill -s TERM 0
} 2>/dev/null | {
  child= lost=
  end() { kill -s KILL -- "$child" "-$child"; } 2>/dev/null
  trap 'lost=1; [ -z "$child" ] || end' TERM HUP
  read -r feeder
  exec 3<&0 </dev/null
  setsid "$@" <&3 3<&- &
  child=$!
  exec 3<&-
  [ -z "$lost" ] || end
  wait "$child" 2>/dev/null
  status=$?
  kill -s KILL -- "-$child" 2>/dev/null
  [ -z "$lost" ] || exit "$status"
  kill -s TERM "$feeder"
  [ -n "$word" ] || exit "$status"
  echo "$word $status" >&2
} &
trap : TERM HUP
wait "$!" 2>/dev/null
status=$?
wait
exit "$status"
"""
_OUTPUTS_APART = 'exec "$@"'
_OUTPUTS_TOGETHER = 'exec "$@" 2>&1'

# Arguments: seconds, bytes, draft, destination, a word or ''. Whoever ends in the middle is known by what is
# missing; a signal to end comes with the end of stdin, and leaves time to clear up.
_PUT = """\
trap : TERM
status=1
if [ -d "$4" ]; then
  echo "is a directory" >&2
elif timeout "$1" cat >"$3" && [ "$(wc -c <"$3")" -eq "$2" ] && mv -f -- "$3" "$4"; then
  status=0
else
  rm -f -- "$3"
fi
[ -n "$5" ] || exit "$status"
echo "$5 $status" >&2
"""


def run_line(argv: Sequence[str], stdin_bytes: int, timeout_s: float, word: str = "") -> str:
    """For a shell: run a command that is over after ``timeout_s``, even if nobody is there to end it.

    With a ``word``, here and below, it ends with status 0, and that word, a space and the command's own
    status are the last line on stderr; there is none if somebody else has ended the command.
    """
    lease_s = math.ceil(timeout_s + _RUN_GRACE_S)
    return _line(_WATCHED, str(lease_s), str(stdin_bytes), word, "sh", "-c", _OUTPUTS_APART, "sh", *argv)


def start_line(argv: Sequence[str], stdin_bytes: int, environment: Mapping[str, str], word: str = "") -> str:
    """For a shell: run a command as long as its stdin is open and `BEAT` arrives there every `BEAT_S`."""
    with_environment = ["env", *(f"{name}={value}" for name, value in environment.items()), *argv]
    command = ("sh", "-c", _OUTPUTS_TOGETHER, "sh", *(with_environment if environment else argv))
    return _line(_WATCHED, f"{LEASE_S:g}", str(stdin_bytes), word, *command)


def put_line(size_bytes: int, destination: str, timeout_s: float, word: str = "") -> str:
    """For a shell: write stdin to a draft beside ``destination`` and, if all comes in time, move that there.

    A host that is killed in the middle keeps the draft, a file of that name, some letters and '.part'.
    """
    draft = f"{destination}.{secrets.token_hex(4)}.part"
    return _line(_PUT, str(math.ceil(timeout_s)), str(size_bytes), draft, destination, word)


def command_status(of_shell: int) -> int:
    """The command's status, negative for a signal, from that of the shell beside it."""
    number = of_shell - _BIGGEST_STATUS
    return -number if number in signal.valid_signals() else of_shell


def _line(script: str, *arguments: str) -> str:
    # exec: no login shell stays in between, which would be in the way of signals.
    return f"exec {shlex.join(['sh', '-c', script, 'sh', *arguments])}"
