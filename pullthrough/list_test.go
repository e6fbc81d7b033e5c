package pullthrough

import "testing"

// TestListsAreBounded in bytes: the least recently asked for go first.
func TestListsAreBounded(t *testing.T) {
	l := NewLists()
	add := func(key string) {
		page := new(List)
		page.Content = make([]byte, maxListBytes/4)
		l.add(key, page)
	}
	for _, key := range []string{"a 1", "a 2", "b 1", "b 2"} {
		add(key)
	}
	_, _ = l.get("a 1")
	add("b 2") // anew
	add("b 3")
	for key, want := range map[string]bool{"a 1": true, "a 2": false, "b 1": true, "b 2": true, "b 3": true} {
		if _, ok := l.get(key); ok != want {
			t.Errorf("%s: got %v, want %v", key, ok, want)
		}
	}
	l.forget("b ")
	if _, ok := l.get("a 1"); !ok || l.bytes != maxListBytes/4 || l.known.Len() != 1 {
		t.Errorf("left: %d bytes of %d lists", l.bytes, l.known.Len())
	}
}
