"""What the dashboard knows about the stack's health: samples, alerts and incidents.

One thread (`sampler`) reads; pages only show its last sample. No Streamlit calls.
"""
