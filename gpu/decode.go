package gpu

import (
	"github.com/ellm-gpu/ellm-gpu/gpu/driver"
	"github.com/ellm-gpu/ellm-gpu/gpu/kernels"
)

// rowRange are stored rows first … first + n − 1 of a matrix.
type rowRange struct{ first, n int }

// decode writes groups [first, first+n) of a coded matrix to plane.
func decode(l *kernels.Launcher, w *weight, first, n, sms int, plane driver.DevicePtr) error {
	if err := decodeChunks(l, w, first, n, sms, plane); err != nil || len(w.Coded.Outliers) == 0 {
		return err
	}
	o := w.outliersLaunch(n)
	return l.Decode(o.kernel, o.grid, o.shared, decodeArgs(w, first, n, plane))
}

// decodeChunks is decode without outliers.
func decodeChunks(l *kernels.Launcher, w *weight, first, n, sms int, plane driver.DevicePtr) error {
	c := w.chunksLaunch(n, sms)
	return l.Decode(c.kernel, c.grid, c.shared, decodeArgs(w, first, n, plane))
}

func decodeArgs(w *weight, first, n int, plane driver.DevicePtr) kernels.DecodeArgs {
	return kernels.DecodeArgs{W: w.descDev, FirstGroup: int32(first), NGroups: int32(n), Plane: plane}
}

// chunksLaunch decodes n groups, outliers left out.
func (w *weight) chunksLaunch(n, sms int) launch {
	const warps = 8
	l := launch{kernel: kernels.DecodeChunksU8ID, grid: driver.D1(min(ceilDiv(n*w.Coded.Tiles(), warps), blocksPerSM*sms)),
		shared: tableShared(w.desc.MaxLen)}
	fast := [...]kernels.ID{kernels.DecodeChunksU8Low0ID, kernels.DecodeChunksU8Low1ID, kernels.DecodeChunksU8Low2ID,
		kernels.DecodeChunksU8Low3ID, kernels.DecodeChunksU8Low4ID}
	switch low := w.Coded.Coding.LowBits; w.desc.Type {
	case kernels.TypeI32:
		l.kernel = kernels.DecodeChunksI32ID
	case kernels.TypeF16, kernels.TypeBf16:
		l.kernel = kernels.DecodeChunksFloatID
	default:
		if low < len(fast) {
			l.kernel = fast[low]
		}
	}
	return l
}

// outliersLaunch adds the outliers of n groups to what chunksLaunch decoded.
func (w *weight) outliersLaunch(n int) launch {
	const threads = 128
	l := launch{kernel: kernels.DecodeOutliersU8ID, grid: driver.D1(ceilDiv(n, threads))}
	switch w.desc.Type {
	case kernels.TypeI32:
		l.kernel = kernels.DecodeOutliersI32ID
	case kernels.TypeF16, kernels.TypeBf16:
		l.kernel = kernels.DecodeOutliersFloatID
	}
	return l
}

// unpackLaunch unpacks n rows of packed codes to bytes.
func (w *weight) unpackLaunch(n, sms int) launch {
	l := launch{kernel: kernels.UnpackCodesU8ID, grid: driver.D1(min(ceilDiv(ceilDiv(n, quadRows), gemvWarps), blocksPerSM*sms))}
	if w.desc.Type == kernels.TypeI32 {
		l.kernel = kernels.UnpackCodesI32ID
	}
	return l
}

// unpack writes some rows of a packed matrix to plane, as decode does; r begins at a multiple of quadRows.
func unpack(l *kernels.Launcher, w *weight, r rowRange, sms int, plane driver.DevicePtr) error {
	u := w.unpackLaunch(r.n, sms)
	return l.UnpackCodes(u.kernel, u.grid, u.shared, kernels.UnpackCodesArgs{W: w.descDev, FirstQuad: int32(r.first / quadRows),
		NQuads: int32(ceilDiv(r.n, quadRows)), Plane: plane})
}
