package registry

import (
	"encoding/binary"
	"io"
)

const blockSize = 1 << 20

// stamp writes the first bytes of block n of the large layer: the numbers of the
// image and of the block.
func (im *Image) stamp(block []byte, n int64) {
	binary.BigEndian.PutUint64(block, uint64(im.number)<<40|uint64(n))
}

// write writes the bytes of the large layer from offset from up to offset to, at
// most step bytes at a time.
func (im *Image) write(w io.Writer, from, to, step int64) error {
	block := append([]byte(nil), im.block...)
	for from < to {
		im.stamp(block, from/blockSize)
		begin := from % blockSize
		n, err := w.Write(block[begin:min(begin+step, blockSize, begin+to-from)])
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// ReadAt implements [io.ReaderAt] for the large layer.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	var stamp [8]byte
	done := 0
	for done < len(p) && off < im.Size {
		begin := off % blockSize
		n := copy(p[done:], im.block[begin:min(blockSize, begin+im.Size-off)])
		if begin < int64(len(stamp)) {
			im.stamp(stamp[:], off/blockSize)
			copy(p[done:done+n], stamp[begin:])
		}
		done += n
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
