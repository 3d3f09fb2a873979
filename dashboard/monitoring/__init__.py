"""What the dashboard knows about the stack's health: samples, alerts and incidents.

The thread in `sampler` reads the health and the metrics. Pages only show its last sample. No module here
calls Streamlit.
"""
