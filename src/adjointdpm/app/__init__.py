"""The playground in the browser: `adjointdpm app`.

The page starts the commands of the command line and reads what they leave in their run folders. It
learns nothing itself. A worker process of its own runs the commands one after the other, so that
neither a closed page nor a page server that ends stops a run.
"""
