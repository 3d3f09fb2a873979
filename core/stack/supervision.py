"""The files that supervisord works from: its configuration and a start script per program.

Owns how they are written. Paths are relative to the checkout, in which
supervisord runs, and command lines are in shell scripts, because its
configuration format has no way to quote a `;`, `#` or `%` in a folder's name.
"""

import os
import shlex

from core.stack.account import own
from core.stack.folder import StackFolder
from core.stack.private_files import write_private
from core.stack.programs import STOP_SECONDS, STOP_SIGNALS, Program, pid_file

START_SECONDS = 2  # a program that lives this long has started; below that, the next try waits longer
START_RETRIES = 10  # one second more before each: gives up after about a minute
LOG_BYTES = "10MB"
LOG_BACKUPS = 3


def write_files(folder: StackFolder, programs: list[Program]) -> None:
    """Write everything that `supervisord -c` needs to run `programs`."""
    write_private(folder.supervisor_config, render_config(folder, programs))
    for program in programs:
        script = folder.run / f"{program.name}.sh"
        script.write_text(render_script(program), encoding="utf-8")
        for file in (script, pid_file(folder, program.name)):
            file.touch()
            own(file, program.account, mode=0o600)
    folder.run.chmod(0o711 if any(program.account for program in programs) else 0o700)


def render_script(program: Program) -> str:
    """Return a script that leaves its process id behind, by which `down` finds it without a supervisor."""
    environment = [f"{name}={value}" for name, value in program.environment.items()]
    command = ["env", "-i", *environment, *program.command] if environment else program.command
    return f'#!/bin/sh\necho "$$" > .local/run/{program.name}.pid\nexec {shlex.join(command)}\n'


def render_config(folder: StackFolder, programs: list[Program]) -> str:
    """Return the configuration; nothing starts by itself, because the order matters."""
    socket = folder.socket if folder.socket.parent != folder.path else f".local/{folder.socket.name}"
    lines = [
        "[unix_http_server]",
        f"file={socket}",
        "chmod=0600",
        "[supervisord]",
        "pidfile=.local/supervisord.pid",
        "logfile=.local/log/supervisor.log",
        f"logfile_maxbytes={LOG_BYTES}",
        f"logfile_backups={LOG_BACKUPS}",
        *(["user=root"] if os.geteuid() == 0 else []),  # said aloud, or it warns at every start
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
    ]
    for priority, program in enumerate(programs):  # the highest is stopped first
        lines += _render_program(program, priority)
    return "\n".join([*lines, ""])


def _render_program(program: Program, priority: int) -> list[str]:
    return [
        f"[program:{program.name}]",
        f"command=/bin/sh .local/run/{program.name}.sh",
        *([f"user={program.account.name}"] if program.account else []),
        f"priority={priority}",
        "autostart=false",
        "autorestart=true",
        f"startsecs={START_SECONDS}",
        f"startretries={START_RETRIES}",
        f"stopsignal={STOP_SIGNALS[program.name].name.removeprefix('SIG')}",
        f"stopwaitsecs={STOP_SECONDS}",
        "redirect_stderr=true",
        f"stdout_logfile=.local/log/{program.name}.log",
        f"stdout_logfile_maxbytes={LOG_BYTES}",
        f"stdout_logfile_backups={LOG_BACKUPS}",
    ]
