"""Every SQL statement of the service; each module names the table it reads or writes."""

from core.queries import distributed as distributed  # its statements replace those of the other modules
