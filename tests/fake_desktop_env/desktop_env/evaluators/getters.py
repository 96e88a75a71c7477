get_vm_file = get_cloud_file = None
