"""What tests of several folders share: nodes as processes, wrong and slow servers, payloads, disks."""
