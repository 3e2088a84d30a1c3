// QRL critic
int main() { return 0; }
