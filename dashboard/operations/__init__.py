"""What the Operations page shows: reading the fleet's metrics, and what to make of them.

Source (Prometheus, or the exporter with a short history) -> one immutable view that all
sessions share -> pure frame and chart builders -> Streamlit calls in `views/operations.py`.
"""
