"""The pages, a folder each: the script `page.py`, which Streamlit runs, and what only that page needs."""
