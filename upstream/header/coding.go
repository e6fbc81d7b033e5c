package header

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the window of zstd in bytes that decoders should support (RFC 8878,
// section 3.1.1.1.2). It bounds the memory of one.
const maxWindow = 8 << 20

// ErrDecodedTooLarge is the error of [Decode] for content that is larger than permitted.
var ErrDecodedTooLarge = errors.New("the decoded response is too large")

// ContentCoding returns the content coding of a response (RFC 9110, section 8.4) in lower
// case, or "" if there is none or the transport has undone it.
func ContentCoding(resp *http.Response) string {
	coding := strings.ToLower(strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ",")))
	if resp.Uncompressed || coding == "identity" {
		return ""
	}
	return coding
}

// Decode undoes a content coding. Some servers compress JSON although the request
// excludes that. Others name a coding that they have not applied, or something that
// is none: content that does not begin as the coding does is returned as it is. The
// error is ErrDecodedTooLarge if more than limit bytes result.
func Decode(content []byte, coding string, limit int64) ([]byte, error) {
	decoder, err := newDecoder(content, coding)
	if decoder == nil || err != nil {
		return content, err
	}
	defer decoder.Close()
	decoded, err := io.ReadAll(io.LimitReader(decoder, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the response is not valid %s: %w", coding, err)
	case int64(len(decoded)) > limit:
		return nil, ErrDecodedTooLarge
	}
	return decoded, nil
}

// newDecoder returns a decoder for content, or nil if the coding is not applied.
func newDecoder(content []byte, coding string) (io.ReadCloser, error) {
	from := bytes.NewReader(content)
	switch coding {
	case "gzip", "x-gzip":
		if bytes.HasPrefix(content, []byte{0x1f, 0x8b}) {
			return gzip.NewReader(from)
		}
	case "deflate":
		switch {
		case len(content) > 1 && content[0]&0x0f == 8 && (int(content[0])<<8|int(content[1]))%31 == 0:
			return zlib.NewReader(from)
		case !bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")):
			return flate.NewReader(from), nil // as some servers understand the coding
		}
	case "zstd":
		if bytes.HasPrefix(content, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			// A single goroutine, which is the reader's, decodes.
			d, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
			if err != nil {
				return nil, err
			}
			return d.IOReadCloser(), nil
		}
	}
	return nil, nil
}
