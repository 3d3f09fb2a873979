"""The pages of the dashboard, one folder each: the script `page.py` that Streamlit runs, and its modules."""
