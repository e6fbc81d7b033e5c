package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxSlack is how many bytes the memory of a tag list may exceed the list.
const maxSlack = 4 << 10

var errNoTagList = errors.New("the response is not a tag list")

// tagArray returns the JSON array of names in a tag list, "[]" if it is null or
// missing. It reads token by token, because a list of 32 MiB with short names takes
// several times its size once it is decoded.
func tagArray(content []byte) ([]byte, error) {
	if !utf8.Valid(content) {
		return nil, errNoTagList
	}
	r := tagReader{decoder: json.NewDecoder(bytes.NewReader(content)), content: content, tags: []byte("[]")}
	if err := r.list(); err != nil {
		return nil, errNoTagList
	}
	if cap(r.tags) > len(r.tags)+maxSlack {
		return bytes.Clone(r.tags), nil // the whole content would stay in memory
	}
	return r.tags, nil
}

// tagReader reads a tag list.
type tagReader struct {
	decoder *json.Decoder
	content []byte // what decoder reads
	tags    []byte // the part of content with the tags
}

// list reads an object and what may follow it.
func (r *tagReader) list() error {
	if token, err := r.decoder.Token(); err != nil || token != json.Delim('{') {
		return errNoTagList
	}
	for r.decoder.More() {
		name, err := r.decoder.Token()
		if err != nil {
			return err
		}
		if text, _ := name.(string); strings.EqualFold(text, "tags") {
			err = r.names()
		} else {
			err = r.skip()
		}
		if err != nil {
			return err
		}
	}
	if _, err := r.decoder.Token(); err != nil {
		return err
	}
	if _, err := r.decoder.Token(); err != io.EOF {
		return errNoTagList
	}
	return nil
}

// names reads an array of strings or null.
func (r *tagReader) names() error {
	token, err := r.decoder.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		return errNoTagList
	}
	start := r.decoder.InputOffset() - 1
	for r.decoder.More() {
		token, err := r.decoder.Token()
		if _, isName := token.(string); err != nil || !isName {
			return errNoTagList
		}
	}
	if _, err := r.decoder.Token(); err != nil {
		return err
	}
	r.tags = r.content[start:r.decoder.InputOffset()]
	return nil
}

// skip reads a value of any type.
func (r *tagReader) skip() error {
	for depth := 0; ; {
		token, err := r.decoder.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}
