"""The health of the stack as the dashboard knows it: samples, alerts and incidents.

The thread in `sampler` reads the health and the metrics. Pages only show its last sample. No module here
calls Streamlit.
"""
