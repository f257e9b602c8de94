"""The browser app (Streamlit)."""
