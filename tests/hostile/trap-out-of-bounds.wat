;; Reads past the end of its memory, which must not be anybody else's.
(module
  ;; @answers
  ;; @heap
  (func (export "sandpost:plugin/handler@0.1.0#handle") (param $message i32) (result i32)
    (i32.load (i32.const -4))))
