"""The console: what happens now, as pages. Everything on them is rendered here; a browser only shows it."""
