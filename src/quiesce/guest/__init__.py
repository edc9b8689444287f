"""What runs inside the VM: stdlib only, Python ≥ 3.6, imports nothing of the rest of Quiesce.

The files of this folder, zipped flat, are the extension: `python3 quiesce-extension-V.zip COMMAND`.
"""
