package exporter

// ForgetSyscalls makes a Dir work as on an old kernel.
func (d *Dir) ForgetSyscalls() { d.syscalls = syscalls{} }
