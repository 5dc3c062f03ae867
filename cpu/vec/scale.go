package vec

// Scale multiplies x, of any length, by a factor, of which 0 stands for 1.
func Scale(x []float32, factor float32) {
	if factor == 0 || factor == 1 {
		return
	}
	for i := range x {
		x[i] *= factor
	}
}

// SoftCap sets every x to c·tanh(x/c) = c − 2c / (exp(2x/c) + 1).
func (k *Kernels) SoftCap(x []float32, c float32) {
	const most = 40 // tanh is 1 from there on
	for i, v := range x {
		x[i] = min(max(2*v/c, -most), most)
	}
	k.Exp(x, 0)
	for i, e := range x {
		x[i] = c * ((e - 1) / (e + 1))
	}
}
