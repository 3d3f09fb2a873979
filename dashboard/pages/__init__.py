"""The pages, one folder each: the script `page.py`, which Streamlit runs, and modules for this page only."""
