package proc

// Addrs finds n distinct loopback addresses on which nobody listens, for processes other than a [Cluster]'s.
func Addrs(n int) ([]string, error) {
	ports, err := freePorts(n)
	if err != nil {
		return nil, err
	}
	addrs := make([]string, n)
	for i, p := range ports {
		addrs[i] = loopback(p)
	}
	return addrs, nil
}
