"""Every SQL statement of the service; each module names the table it reads or writes."""
