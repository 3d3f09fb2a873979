"""What the dashboard knows about the stack's health: samples, alerts and incidents.

One thread (`sampler`) reads; pages only look at what it found last. No Streamlit calls.
"""
