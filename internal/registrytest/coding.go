package registrytest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
)

// WithCoding makes the registry encode the body of each response, errors included,
// whatever the request accepts. The coding is named in Content-Encoding. Faults that
// need the connection, such as CutBlobs, do not work with it.
func WithCoding(coding string, encode func(io.Writer) io.WriteCloser) Option {
	return func(o *options) { o.coding, o.encode = coding, encode }
}

// serveEncoded handles requests to a registry with WithCoding.
func (r *Registry) serveEncoded(w http.ResponseWriter, req *http.Request) {
	plain := httptest.NewRecorder()
	r.serve(plain, req)
	var body bytes.Buffer
	encoder := r.options.encode(&body)
	_, err := encoder.Write(plain.Body.Bytes())
	if err == nil {
		err = encoder.Close()
	}
	if err != nil {
		r.t.Errorf("encoding a response: %v", err)
	}
	for name, values := range plain.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Encoding", r.options.coding)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(plain.Code)
	if req.Method != http.MethodHead {
		_, _ = w.Write(body.Bytes())
	}
}
