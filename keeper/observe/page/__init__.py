"""The page at ``/``: ``index.html``, ``page.css``, ``page.js``, sent as one document."""
