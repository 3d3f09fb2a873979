"""The Operations page: health, metrics and statistics of the whole stack, for the person on call."""
